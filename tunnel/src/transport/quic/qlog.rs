//! Traces of every packet (draft-ietf-quic-qlog-main-schema).

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::{QlogConfig, QlogStream};

use super::EndpointError;

/// Begins a trace in a new file of `folder`, which is made if there is none. Connections tell
/// themselves apart in it by their group id.
pub(super) fn start(folder: &Path, side: &str) -> Result<Option<QlogStream>, EndpointError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{side}-{}-{count}.sqlog", std::process::id()));
    let file = fs::create_dir_all(folder)
        .and_then(|()| File::create_new(&path))
        .map_err(|source| EndpointError::Qlog {
            path: path.clone(),
            source,
        })?;
    tracing::warn!(path = %path.display(), "tracing every QUIC packet: slow, and never enough disk");
    let mut config = QlogConfig::default();
    config
        .writer(Box::new(BufWriter::new(file)))
        .title(Some(format!("underpass {side}")));
    Ok(config.into_stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test, which is gone when it ends.
    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_trace_is_a_file_that_says_what_it_is() {
        let name = format!("underpass-qlog-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        drop(start(&folder.0, "server").unwrap());
        drop(start(&folder.0, "server").unwrap());
        let files: Vec<_> = fs::read_dir(&folder.0).unwrap().collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(text.contains("underpass server"), "{text}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let file = std::env::current_exe().unwrap();
        let error = start(&file, "client").map(drop).unwrap_err();
        assert!(
            error.to_string().contains(&*file.to_string_lossy()),
            "{error}"
        );
    }
}
