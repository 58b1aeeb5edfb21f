//! `underpass-server directory`: copies of the directory in a file, and from one store to another.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use underpass_core::files;
use underpass_directory::{Contents, Directory, MemoryStore, Revision, Store, Write};
use underpass_directory_etcd::Missing;
use underpass_terminal::say;

use crate::data_dir::DataDir;
use crate::directory::{self, copy};
use crate::etcd;

/// Commands about the directory as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a copy of the directory into a new file that only its owner can read: of the data directory, while no server
    /// runs on it, or with --etcd of etcd, also while servers run. Credentials in it stay encrypted. The key (secrets.key or
    /// --secrets-key-file) and the CA (ca.key, ca.pem) are not in it: keep the data directory, or copy them
    Export(Export),
    /// Put a copy in the place of a directory that holds nothing, all of it or nothing: of the data directory, while no server
    /// runs on it, or with --etcd of etcd. The data directory belongs to that directory from then on
    Import(Import),
}

/// Flags of `directory export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file, which must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    etcd: etcd::Options,
}

/// Flags of `directory import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Remove what the directory holds now, which ends what rests on it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    etcd: etcd::Options,
}

pub(crate) async fn run(folder: &Path, command: Command) -> Result<()> {
    match command {
        Command::Export(options) => export(folder, options).await,
        Command::Import(options) => import(folder, options).await,
    }
}

async fn export(folder: &Path, options: Export) -> Result<()> {
    let etcd = options.etcd.config()?;
    ensure!(
        etcd.is_some() || folder.join(directory::NAME).is_file(),
        "{} has no directory of its own: name the server's --data-dir, or --etcd where the directory is there",
        folder.display()
    );
    let data = DataDir::open(folder)?;
    let store: Arc<dyn Store> = match &etcd {
        Some(config) => Arc::new(directory::on_etcd(&data, config, Missing::Refuse).await?),
        None => directory::in_file(&data)?,
    };
    say!("Reading the directory.");
    let contents = store.load().await?;
    let text = copy::write(&contents)?;
    say!("Writing {} objects.", contents.records.len());
    write(&options.file, &text)
        .with_context(|| format!("cannot write {}", options.file.display()))?;
    say!(
        "{} holds the directory at revision {}. The key of its credentials and the CA are not in it.",
        options.file.display(),
        contents.revision
    );
    Ok(())
}

/// Writes a new file, which only its owner can read: all of it, or none.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Temporary files are made readable by their owner only.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    fs::File::open(folder)?.sync_all()
}

async fn import(folder: &Path, options: Import) -> Result<()> {
    let etcd = options.etcd.config()?;
    let path = options.file.display();
    let text = files::read_text_once(&options.file, u64::MAX);
    let text = text.with_context(|| format!("cannot read {path}"))?;
    let copied = copy::read(&text).with_context(|| format!("{path} cannot be used"))?;
    understood(&copied)
        .await
        .with_context(|| format!("{path} cannot be used"))?;
    let data = DataDir::open(folder)?;
    let store: Arc<dyn Store> = match &etcd {
        Some(config) => Arc::new(directory::on_etcd(&data, config, Missing::Create).await?),
        None => directory::take_into_file(&data)?,
    };
    say!("Reading the directory that there is.");
    let there = store.load().await?;
    ensure!(
        options.replace || there.records.is_empty(),
        "the directory holds {} objects: export it first, and use --replace to remove them all",
        there.records.len()
    );
    say!("Writing {} objects.", copied.records.len());
    let revision = store
        .commit_revocation(there.revision, replacing(&there, copied))
        .await?;
    if etcd.is_none() {
        directory::belongs_to_file(&data)?;
    }
    say!(
        "The directory is there, at revision {revision}. Start the server with the key of its credentials and its CA."
    );
    Ok(())
}

/// The copy's objects, and the ends of all others.
fn replacing(there: &Contents, copied: Contents) -> Vec<Write> {
    let gone = there.records.keys();
    let gone = gone.filter(|key| !copied.records.contains_key(key));
    let gone = gone.map(|key| Write {
        key: key.clone(),
        value: None,
    });
    let mut writes: Vec<_> = gone.collect();
    let objects = copied.records.into_iter();
    writes.extend(objects.map(|(key, record)| Write {
        key,
        value: Some(record.value),
    }));
    writes
}

/// Every object can be read by this version.
async fn understood(copied: &Contents) -> Result<()> {
    let store = MemoryStore::default();
    let writes = replacing(&Contents::default(), copied.clone());
    store.commit(Revision::default(), writes).await?;
    Directory::open(Arc::new(store)).await?;
    Ok(())
}
