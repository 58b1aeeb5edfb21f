//! The site of a run: a target, certificates, and a folder for each system.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::link::{self, Link, Shape};
use crate::ports;
use crate::process::{self, Process};

/// The password of a PKCS #12 file, which cannot be without.
pub(crate) const PASSWORD: &str = "bench";

/// A folder with certificates, and the target.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    program: PathBuf,
    /// Where what users order is done, as agents know it.
    pub(crate) target: SocketAddr,
    /// The same as users know it.
    pub(crate) target_from_here: SocketAddr,
    /// Where servers listen for agents.
    address: IpAddr,
    /// Where what servers dial listens.
    far_address: IpAddr,
    _target: Process,
    /// Last, so that what is behind it ends before.
    link: Option<Link>,
}

impl Site {
    /// Makes certificates, and starts the target. All is on loopback.
    ///
    /// # Errors
    /// Where there is no place, or no port.
    pub(crate) fn new() -> Result<Self> {
        Self::with(None)
    }

    /// The same with agents and target behind a link.
    ///
    /// # Errors
    /// Where there can be no link, too.
    pub(crate) fn behind(shape: Shape) -> Result<Self> {
        Self::with(Some(shape))
    }

    fn with(shape: Option<Shape>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("underpass-bench-")
            .tempdir()?;
        certificates(folder.path()).context("cannot make certificates")?;
        let program = std::env::current_exe()?;
        let link = shape.map(|shape| Link::up(folder.path(), &program, shape));
        let link = link.transpose()?;
        let target = ports::free()?;
        let (address, far_address) = match &link {
            None => (target.ip(), target.ip()),
            Some(_) => (link::here().into(), link::there().into()),
        };
        let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), target.port()).to_string();
        let arguments = ["process", "target", "--listen", &all];
        let process = start(folder.path(), link.as_ref(), "target", &program, arguments)?;
        Ok(Self {
            folder,
            program,
            target,
            target_from_here: SocketAddr::new(far_address, target.port()),
            address,
            far_address,
            _target: process,
            link,
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

    /// An address where a server can listen for agents.
    ///
    /// # Errors
    /// Where no port is free.
    pub(crate) fn for_agents(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.address, ports::free()?.port()))
    }

    /// An address beside the target that can be dialled from the server's side.
    ///
    /// # Errors
    /// Where no port is free.
    pub(crate) fn beside_target(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.far_address, ports::free()?.port()))
    }

    /// Gives an order to the firewall on the link.
    ///
    /// # Errors
    /// Where there is none, or no such order.
    pub(crate) fn firewall(&self, order: &str) -> Result<()> {
        let link = self.link.as_ref().context("there is no link")?;
        link.firewall(order)
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

    /// Starts a program beside the target.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn start_there<'a>(
        &self,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        start(self.path(), self.link.as_ref(), name, program, arguments)
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

    /// The same beside the target.
    ///
    /// # Errors
    /// Where that fails.
    pub(crate) fn start_own_there<'a>(
        &self,
        name: &str,
        role: &'a str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        let role = ["process", role].into_iter();
        self.start_there(name, &self.program, role.chain(arguments))
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

/// In the network behind the link, where there is one.
fn start<'a>(
    folder: &Path,
    link: Option<&Link>,
    name: &str,
    program: &Path,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<Process> {
    let Some(link) = link else {
        return Process::start(folder, name, program, arguments);
    };
    let [enter, words @ ..] = link.enter();
    let words = words.into_iter().map(OsString::from);
    let command = words.chain([program.as_os_str().to_owned()]);
    let command = command.chain(arguments.into_iter().map(OsString::from));
    Process::start(folder, name, Path::new(&enter), command)
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
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        link::here().to_string(),
    ];
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &ca)?;
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
