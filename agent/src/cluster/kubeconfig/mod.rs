//! Reads a kubeconfig. No error repeats a text of it: it holds credentials.
//!
//! kube's own reading shows the lines around an error, a token among them.

mod form;

use std::io;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError as KubeError, LoadDataError};
use thiserror::Error;
use tokio::runtime::Handle;
use underpass_core::{files, limits, yaml::Fault};
use zeroize::Zeroizing;

/// Stands in the place of a proxy's URL where a kubeconfig has none.
const NO_PROXY: &str = "http://no-proxy.invalid/";

/// A kubeconfig that cannot be used.
#[derive(Debug, Error)]
#[error("cannot use kubeconfig {}", path.display())]
pub(super) struct KubeconfigError {
    path: PathBuf,
    source: Why,
}

/// The fault of a kubeconfig, without a text of it.
#[derive(Debug, Error)]
enum Why {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is larger than {} bytes", limits::KUBECONFIG_BYTES)]
    TooLarge,
    #[error("it is no text in UTF-8 or UTF-16")]
    Encoding,
    #[error(transparent)]
    Form(Fault),
    #[error("its documents have different kinds or versions")]
    Documents,
    #[error("it has no current context: say which one (--context)")]
    NoContext,
    #[error("it has no {kind} {name:?}")]
    Missing { kind: &'static str, name: String },
    #[error("two of its {list} have the name {name:?}")]
    Twice { list: &'static str, name: String },
    #[error("its cluster has no server")]
    NoServer,
    #[error("its {0} is no URL")]
    NoUrl(&'static str),
    #[error("its {0} is not base64")]
    NoBase64(&'static str),
    #[error("its certificate-authority is no certificate in PEM")]
    NoCertificate,
    #[error("it names {}, which cannot be read", path.display())]
    Named { path: PathBuf, source: io::Error },
}

/// The settings of a context of the kubeconfig; of the current one without a name. Blocks.
pub(super) fn load(path: &Path, context: Option<String>) -> Result<Config, KubeconfigError> {
    let loaded = parse(path).and_then(|kubeconfig| {
        let settings = settings(kubeconfig, context);
        Handle::current().block_on(settings).map_err(Why::of)
    });
    loaded.map_err(|why| why.at(path))
}

/// Reads the file. Relative paths in it are the folder's. Blocks.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    parse(path).map_err(|why| why.at(path))
}

fn parse(path: &Path) -> Result<Kubeconfig, Why> {
    let bytes = read_bytes(path)?;
    let text = form::decode(&bytes).ok_or(Why::Encoding)?;
    let mut kubeconfig = form::parse(&text).map_err(Why::of)?;
    if let Some((list, name)) = form::twice(&kubeconfig) {
        return Err(Why::Twice { list, name });
    }
    resolve(&mut kubeconfig, path.parent().unwrap_or(Path::new("")));
    Ok(kubeconfig)
}

fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, Why> {
    let read = files::read(path, limits::KUBECONFIG_BYTES);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => Why::TooLarge,
        _ => Why::Read(error),
    })
}

/// As client-go does it: a command without a slash is looked for in `PATH`.
fn resolve(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let clusters = kubeconfig.clusters.iter_mut();
    let clusters = clusters.filter_map(|named| named.cluster.as_mut());
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.as_mut());
    authorities.for_each(|path| below(folder, path));
    let users = kubeconfig.auth_infos.iter_mut();
    for user in users.filter_map(|named| named.auth_info.as_mut()) {
        let files = [
            &mut user.client_certificate,
            &mut user.client_key,
            &mut user.token_file,
        ];
        files
            .into_iter()
            .flatten()
            .for_each(|path| below(folder, path));
        let command = user.exec.as_mut().and_then(|exec| exec.command.as_mut());
        if let Some(command) = command.filter(|command| command.contains('/')) {
            below(folder, command);
        }
    }
}

fn below(folder: &Path, path: &mut String) {
    if !path.is_empty()
        && let Some(joined) = folder.join(&*path).to_str()
    {
        *path = joined.to_owned();
    }
}

/// The kubeconfig's settings, and no others: where it names no proxy, kube would take the environment's,
/// which is the way to the Underpass server. The API server is on this side of it.
async fn settings(
    mut kubeconfig: Kubeconfig,
    context: Option<String>,
) -> Result<Config, KubeError> {
    let clusters = kubeconfig.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        let proxy = cluster.proxy_url.take();
        cluster.proxy_url = Some(proxy.unwrap_or_else(|| NO_PROXY.to_owned()));
    }
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.proxy_url = config.proxy_url.filter(|url| *url != NO_PROXY);
    // A plugin is told of its cluster, too.
    let exec = config.auth_info.exec.as_mut();
    if let Some(cluster) = exec.and_then(|exec| exec.cluster.as_mut()) {
        cluster.proxy_url = cluster.proxy_url.take().filter(|url| url != NO_PROXY);
    }
    Ok(config)
}

impl Why {
    /// Takes from kube's error what is no text of the file, and names.
    fn of(error: KubeError) -> Self {
        match error {
            KubeError::Parse(error) => Self::Form(Fault::of(&error)),
            KubeError::KindMismatch | KubeError::ApiVersionMismatch => Self::Documents,
            KubeError::CurrentContextNotSet => Self::NoContext,
            KubeError::LoadContext(name) => Self::missing("context", name),
            KubeError::LoadClusterOfContext(name) => Self::missing("cluster", name),
            KubeError::MissingClusterUrl => Self::NoServer,
            KubeError::ParseClusterUrl(_) => Self::NoUrl("server"),
            KubeError::ParseProxyUrl(_) => Self::NoUrl("proxy-url"),
            KubeError::LoadCertificateAuthority(error) => {
                Self::unloaded("certificate-authority-data", error)
            }
            KubeError::LoadClientCertificate(error) => {
                Self::unloaded("client-certificate-data", error)
            }
            KubeError::LoadClientKey(error) => Self::unloaded("client-key-data", error),
            KubeError::ParseCertificates(_) => Self::NoCertificate,
            KubeError::ReadConfig(error, _) => Self::Read(error),
            KubeError::FindPath => Self::Read(io::ErrorKind::NotFound.into()),
        }
    }

    fn missing(kind: &'static str, name: String) -> Self {
        Self::Missing { kind, name }
    }

    fn unloaded(field: &'static str, error: LoadDataError) -> Self {
        match error {
            LoadDataError::ReadFile(source, path) => Self::Named { path, source },
            LoadDataError::DecodeBase64(_) | LoadDataError::NoBase64DataOrFile => {
                Self::NoBase64(field)
            }
        }
    }

    fn at(self, path: &Path) -> KubeconfigError {
        KubeconfigError {
            path: path.to_owned(),
            source: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;

    use super::*;

    /// All that an error shows in any way.
    fn told(error: &(dyn Error + 'static)) -> String {
        let chain = std::iter::successors(Some(error), |&error| error.source());
        chain
            .map(|error| format!("{error}\n{error:?}\n{error:#?}\n"))
            .collect()
    }

    fn written(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    async fn loaded(text: impl AsRef<[u8]>) -> Result<Config, KubeconfigError> {
        let (_dir, path) = written(text);
        tokio::task::spawn_blocking(move || load(&path, None))
            .await
            .unwrap()
    }

    /// A reader that waited for a writer would read no later kubeconfig.
    #[tokio::test]
    async fn rule_23_a_pipe_in_the_place_of_a_kubeconfig_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let loading = tokio::task::spawn_blocking(move || load(&path, None));
        let error = loading.await.unwrap().unwrap_err();
        let shown = underpass_tunnel::chain(&error).to_string();
        assert!(shown.contains("is no regular file"), "{shown}");
    }

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "clusters: [{{name: c, cluster: {{server: 'https://a:6443'{cluster}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[tokio::test]
    async fn the_api_servers_proxy_is_the_kubeconfigs_or_none() {
        for (cluster, proxy) in [
            ("", None),
            (", proxy-url: ''", None),
            (", proxy-url: 'http://p:3128'", Some("http://p:3128/")),
        ] {
            let exec = "exec: {command: p, provideClusterInfo: true}";
            let config = loaded(kubeconfig(cluster, exec)).await.unwrap();
            let told = config.auth_info.exec.unwrap().cluster.unwrap();
            assert_eq!(told.server.as_deref(), Some("https://a:6443"));
            let found = config.proxy_url.map(|url| url.to_string());
            assert_eq!(found.as_deref(), proxy);
            assert_eq!(told.proxy_url.is_some(), proxy.is_some());
        }
    }

    #[test]
    fn paths_are_the_kubeconfigs_folders() {
        let user = "client-certificate: crt, client-key: /key, tokenFile: sub/token, exec: {command: COMMAND}";
        for (command, found) in [("p", None), ("./p", Some("./p")), ("/p", None)] {
            let user = user.replace("COMMAND", command);
            let (dir, path) = written(kubeconfig(", certificate-authority: ca", &user));
            let read = read(&path).unwrap();
            let here = |name: &str| dir.path().join(name).to_str().map(str::to_owned);
            let cluster = read.clusters[0].cluster.as_ref().unwrap();
            assert_eq!(cluster.certificate_authority, here("ca"));
            let user = read.auth_infos[0].auth_info.as_ref().unwrap();
            assert_eq!(user.client_certificate, here("crt"));
            assert_eq!(user.client_key.as_deref(), Some("/key"));
            assert_eq!(user.token_file, here("sub/token"));
            let expected = found.map_or_else(|| Some(command.to_owned()), here);
            assert_eq!(user.exec.as_ref().unwrap().command, expected);
        }
    }

    #[test]
    fn other_encodings_and_several_documents_are_read() {
        let text = format!("{}---\npreferences: {{}}\n", kubeconfig("", "token: é"));
        let le = text.encode_utf16().flat_map(u16::to_le_bytes);
        let be = text.encode_utf16().flat_map(u16::to_be_bytes);
        let le: Vec<u8> = [0xFF, 0xFE].into_iter().chain(le).collect();
        let be: Vec<u8> = [0xFE, 0xFF].into_iter().chain(be).collect();
        let marked = format!("\u{feff}{text}");
        for bytes in [text.as_bytes(), marked.as_bytes(), &le, &be] {
            let (_dir, path) = written(bytes);
            assert_eq!(read(&path).unwrap().clusters[0].name, "c");
        }
        for bytes in [&le[..le.len() - 1], &[0xFF], &[0xFE, 0xFF, 0xD8, 0x00]] {
            let (_dir, path) = written(bytes);
            let error = read(&path).unwrap_err();
            assert!(matches!(error.source, Why::Encoding), "{error:?}");
        }
        let (_dir, path) = written("");
        assert!(read(&path).unwrap().clusters.is_empty());
    }

    #[tokio::test]
    async fn rule_11_a_kubeconfig_that_cannot_be_used_is_named_without_its_text() {
        let with = |cluster: &str, user: &str| kubeconfig(cluster, user);
        for (text, named) in [
            (with("", "token: [hunter2]"), "line 4, column"),
            (with("", "token: hunter2, exec: hunter2"), "line 4"),
            (with("", "token: \"hunter2"), "line"),
            (with("", "hunter2"), ""),
            (
                "clusters: hunter2\n".to_owned(),
                "line 1, column 11: expected a sequence",
            ),
            ("hunter2".to_owned(), "line 1"),
            ("token: hunter2\n\tx: y".to_owned(), "line 1"),
            ("current-context: y\n".to_owned(), "it has no context \"y\""),
            ("current-context: ''\n".to_owned(), "no current context"),
            (
                with("", "token: hunter2").replace("users: [", "users: [{name: u}, "),
                "two of its users have the name \"u\"",
            ),
            (
                with("", "token: hunter2").replace("https://a:6443", ""),
                "no server",
            ),
            (
                with(", certificate-authority-data: 'hunter2!'", ""),
                "not base64",
            ),
            (with(", certificate-authority-data: aHVudGVyMg==", ""), ""),
            (with(", proxy-url: 'http://u:hunter2@[p'", ""), "proxy-url"),
            (
                with(", certificate-authority: absent", ""),
                "absent, which cannot be read",
            ),
        ] {
            let Err(error) = loaded(&text).await else {
                // A token, or a CA, that is found to be none later on.
                continue;
            };
            let told = told(&error);
            assert!(!told.contains("hunter2"), "{told}");
            assert!(told.contains(named), "{text}: {told}");
        }
    }

    /// Kubeconfigs as they are while something writes them.
    #[tokio::test]
    async fn rule_11_a_kubeconfig_that_is_cut_off_shows_nothing_of_a_token() {
        let secret = "hunter2-and-many-more-characters";
        let block = format!(
            "apiVersion: v1\nkind: Config\nusers:\n- name: u\n  user:\n    token: \"{secret}\"\n    \
             client-key-data: {secret}\n    exec:\n      command: p\n      args: [--token, {secret}]\n      \
             env:\n      - name: TOKEN\n        value: '{secret}'\n    auth-provider: {{name: oidc, config: \
             {{id-token: {secret}, refresh-token: \"{secret}\"}}}}\n"
        );
        let flow = kubeconfig("", &format!("token: '{secret}', password: {secret}"));
        let mut wrong = 0;
        for text in [block, flow] {
            for end in 0..text.len() {
                let Err(error) = loaded(&text[..end]).await else {
                    continue;
                };
                wrong += 1;
                let told = told(&error);
                assert!(!told.contains("hunter"), "{told}");
            }
        }
        assert!(wrong > 200, "{wrong}");
    }
}
