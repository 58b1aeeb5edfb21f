//! What all systems find: a target, certificates, and a folder of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::ports;
use crate::process::{self, Process};

/// The password of a PKCS #12 file, which cannot be without.
pub(crate) const PASSWORD: &str = "bench";

/// A folder with certificates, and the target.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    program: PathBuf,
    /// Where what users order is done.
    pub(crate) target: SocketAddr,
    _target: Process,
}

impl Site {
    /// Makes certificates, and starts the target.
    ///
    /// # Errors
    /// Where there is no place, or no port.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("underpass-bench-")
            .tempdir()?;
        certificates(folder.path()).context("cannot make certificates")?;
        let program = std::env::current_exe()?;
        let target = ports::free()?;
        let arguments = ["process", "target", "--listen", &target.to_string()];
        let process = Process::start(folder.path(), "target", &program, arguments)?;
        Ok(Self {
            folder,
            program,
            target,
            _target: process,
        })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file's path, for command lines.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Writes a file into the folder, and gives its path.
    ///
    /// # Errors
    /// Where there is no place.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<String> {
        fs::write(self.path().join(name), text).with_context(|| format!("cannot write {name}"))?;
        Ok(self.file(name))
    }

    /// The CA of all certificates.
    pub(crate) fn ca(&self) -> String {
        self.file("ca.pem")
    }

    /// Starts a program.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn start<'a>(
        &self,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        Process::start(self.path(), name, program, arguments)
    }

    /// Starts a process that this program has.
    ///
    /// # Errors
    /// Where that fails.
    pub(crate) fn start_own<'a>(
        &self,
        name: &str,
        role: &'a str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        let role = ["process", role].into_iter();
        self.start(name, &self.program, role.chain(arguments))
    }

    /// The server's certificate and key in one file of PKCS #12, for those who take nothing else.
    ///
    /// # Errors
    /// Where openssl is missing.
    pub(crate) fn pkcs12(&self) -> Result<String> {
        let file = self.file("server.p12");
        process::run(
            Command::new("openssl")
                .args(["pkcs12", "-export", "-passout"])
                .arg(format!("pass:{PASSWORD}"))
                .args([
                    "-in",
                    &self.file("server.pem"),
                    "-inkey",
                    &self.file("server.key"),
                ])
                .args(["-out", &file]),
        )?;
        Ok(file)
    }
}

/// A CA, and a certificate of each side.
fn certificates(folder: &Path) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "underpass-bench");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), ca.pem())?;
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &ca)?;
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
