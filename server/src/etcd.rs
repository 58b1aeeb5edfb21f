//! Flags about etcd.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use underpass_directory_etcd::{
    ClientCertificate, ConfigError, Endpoint, EtcdConfig, EtcdUser, Prefix,
};

/// Flags about the directory on etcd.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "etcd-options")]
pub(crate) struct Options {
    /// Member of the etcd that keeps the directory, https://HOST:PORT, in the place of the file in the data directory; repeat for the
    /// others. Without TLS (http) on this machine only
    #[arg(
        long = "etcd",
        env = "UNDERPASS_ETCD",
        value_delimiter = ',',
        value_name = "URL"
    )]
    etcd: Vec<Endpoint>,
    /// PEM file with the CAs of the members' certificates. Read for each connection, as the next two
    #[arg(long, env = "UNDERPASS_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file with a client certificate for etcd
    #[arg(
        long,
        env = "UNDERPASS_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    etcd_cert: Option<PathBuf>,
    /// PEM file with the private key of --etcd-cert
    #[arg(
        long,
        env = "UNDERPASS_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,
    /// User of etcd. It has to read and write the keys below the prefix
    #[arg(
        long,
        env = "UNDERPASS_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password_file"
    )]
    etcd_user: Option<String>,
    /// File with the password of --etcd-user. Read for each login
    #[arg(
        long,
        env = "UNDERPASS_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_user"
    )]
    etcd_password_file: Option<PathBuf>,
    /// Prefix of the directory's keys in etcd, /NAME/: one for each installation. /underpass/ by default
    #[arg(long, env = "UNDERPASS_ETCD_PREFIX", value_name = "PREFIX")]
    etcd_prefix: Option<Prefix>,
}

impl Options {
    /// How etcd is reached; `None` where the directory is not there.
    pub(crate) fn config(&self) -> Result<Option<EtcdConfig>> {
        if self.etcd.is_empty() {
            let others = [
                ("--etcd-ca", self.etcd_ca.is_some()),
                ("--etcd-cert", self.etcd_cert.is_some()),
                ("--etcd-user", self.etcd_user.is_some()),
                ("--etcd-prefix", self.etcd_prefix.is_some()),
            ];
            return match others.iter().find(|(_, is_set)| *is_set) {
                Some((flag, _)) => bail!("{flag} needs --etcd, which says where etcd is"),
                None => Ok(None),
            };
        }
        let certificate = self.etcd_cert.clone().zip(self.etcd_key.clone());
        let user = self.etcd_user.clone().zip(self.etcd_password_file.clone());
        let config = EtcdConfig {
            endpoints: self.etcd.clone(),
            ca: self.etcd_ca.clone(),
            certificate: certificate
                .map(|(certificate, key)| ClientCertificate { certificate, key }),
            user: user.map(|(name, password_file)| EtcdUser {
                name,
                password_file,
            }),
            prefix: self.etcd_prefix.clone().unwrap_or_default(),
            installation: None,
        };
        config.check().map_err(|error| {
            let flag = match &error {
                ConfigError::NoCa(_) => "--etcd-ca is missing",
                ConfigError::TlsWithoutUse(_) => "--etcd-ca or --etcd-cert cannot be used",
                _ => "--etcd cannot be used",
            };
            anyhow::Error::from(error).context(flag)
        })?;
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        etcd: Options,
    }

    fn config(flags: &[&str]) -> Result<Option<EtcdConfig>, String> {
        let line = Line::try_parse_from(["x"].iter().chain(flags));
        let line = line.map_err(|error| error.to_string())?;
        line.etcd.config().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_flags_name() {
        assert_eq!(config(&[]), Ok(None));
        let tls = [
            "--etcd",
            "https://a:2379,https://b:2379",
            "--etcd-ca",
            "ca.pem",
        ];
        let read = config(&tls).unwrap().unwrap();
        assert_eq!(read.endpoints.len(), 2);
        assert_eq!(read.prefix.to_string(), "/underpass/");
        for (flags, wanted) in [
            (&["--etcd", "a:2379"][..], "https://HOST:PORT"),
            (&["--etcd", "https://a:2379"], "--etcd-ca is missing"),
            (&["--etcd", "http://10.0.0.1:2379"], "--etcd cannot be used"),
            (&["--etcd-ca", "ca.pem"], "--etcd-ca needs --etcd"),
            (&["--etcd-prefix", "/x/"], "--etcd-prefix needs --etcd"),
            (&["--etcd-prefix", "x"], "/NAME/"),
            (&["--etcd-cert", "x"], "--etcd-key"),
            (&["--etcd-user", "x"], "--etcd-password-file"),
            (
                &["--etcd", "http://127.0.0.1:1", "--etcd-ca", "x"],
                "--etcd-ca or --etcd-cert cannot be used",
            ),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(wanted), "{flags:?}: {error}");
        }
    }
}
