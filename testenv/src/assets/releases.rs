//! Which official files hold the programs, and which checksums they must have.

use crate::recipe::{ETCD_VERSION, KUBERNETES_VERSION};

/// The checksums that somebody has verified.
const PINS: &str = include_str!("sha256sums");

/// An official release of programs for Linux. `{version}` and `{arch}` stand for themselves in its texts.
#[derive(Debug)]
pub(super) struct Release {
    version: &'static str,
    files: &'static [File],
}

#[derive(Debug)]
struct File {
    url: &'static str,
    program: &'static str,
    /// The program's path in the file, where that is an archive.
    member: Option<&'static str>,
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Download {
    pub(super) url: String,
    /// Lower-case hexadecimal digits.
    pub(super) sha256: String,
    /// The program's file name.
    pub(super) program: &'static str,
    /// The program's path in a gzipped tar archive; without one the file is the program.
    pub(super) member: Option<String>,
}

const fn kubernetes(url: &'static str, program: &'static str) -> File {
    File {
        url,
        program,
        member: None,
    }
}

pub(super) const KUBERNETES: Release = Release {
    version: KUBERNETES_VERSION,
    files: &[
        kubernetes(
            "https://dl.k8s.io/{version}/bin/linux/{arch}/kube-apiserver",
            "kube-apiserver",
        ),
        kubernetes(
            "https://dl.k8s.io/{version}/bin/linux/{arch}/kube-controller-manager",
            "kube-controller-manager",
        ),
        kubernetes(
            "https://dl.k8s.io/{version}/bin/linux/{arch}/kubectl",
            "kubectl",
        ),
    ],
};

pub(super) const ETCD: Release = Release {
    version: ETCD_VERSION,
    files: &[File {
        url: "https://github.com/etcd-io/etcd/releases/download/{version}/etcd-{version}-linux-{arch}.tar.gz",
        program: "etcd",
        member: Some("etcd-{version}-linux-{arch}/etcd"),
    }],
};

impl Release {
    /// The downloads for this machine; `None` unless every file has a pin.
    pub(super) fn downloads(&self) -> Option<Vec<Download>> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            _ => return None,
        };
        self.downloads_with(PINS, arch)
    }

    fn downloads_with(&self, pins: &str, arch: &str) -> Option<Vec<Download>> {
        let text = |template: &str| {
            template
                .replace("{version}", self.version)
                .replace("{arch}", arch)
        };
        let download = |file: &File| {
            let url = text(file.url);
            Some(Download {
                sha256: pin(pins, &url)?,
                url,
                program: file.program,
                member: file.member.map(text),
            })
        };
        self.files.iter().map(download).collect()
    }
}

/// The checksum of a URL. A line of another form pins nothing.
fn pin(pins: &str, url: &str) -> Option<String> {
    let (sha256, _) = pins
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, pinned)| *pinned == url)?;
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| sha256.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins of a release that nobody has to believe.
    fn pins(release: &Release, arch: &str) -> String {
        let url = |file: &File| {
            file.url
                .replace("{version}", release.version)
                .replace("{arch}", arch)
        };
        let line = |file: &File| format!("{}  {}\n", "0f".repeat(32), url(file));
        release.files.iter().map(line).collect()
    }

    #[test]
    fn a_release_is_downloaded_if_all_its_files_are_pinned() {
        for release in [&KUBERNETES, &ETCD] {
            for arch in ["amd64", "arm64"] {
                let pins = pins(release, arch);
                let downloads = release.downloads_with(&pins, arch).unwrap();
                assert_eq!(downloads.len(), release.files.len());
                assert!(downloads.iter().all(|file| !file.url.contains('{')));
                let (first, rest) = pins.split_once('\n').unwrap();
                assert_eq!(release.downloads_with(rest, arch), None);
                let short = format!("{}\n{rest}", &first[1..]);
                assert_eq!(release.downloads_with(&short, arch), None);
                assert_eq!(release.downloads_with("", arch), None);
            }
            assert_eq!(
                release.downloads_with(&pins(release, "amd64"), "arm64"),
                None
            );
        }
    }

    #[test]
    fn every_pin_is_of_a_file_that_is_used() {
        let used: Vec<_> = [&KUBERNETES, &ETCD]
            .into_iter()
            .flat_map(|release| ["amd64", "arm64"].map(|arch| pins(release, arch)))
            .collect();
        for line in PINS.lines().filter(|line| !line.starts_with('#')) {
            let (_, url) = line.split_once("  ").unwrap();
            assert!(pin(PINS, url).is_some(), "{line}");
            assert!(used.iter().any(|pins| pin(pins, url).is_some()), "{line}");
        }
    }

    /// A line of an older version pins nothing.
    #[test]
    fn the_release_of_kubernetes_is_pinned() {
        for arch in ["amd64", "arm64"] {
            assert!(KUBERNETES.downloads_with(PINS, arch).is_some(), "{arch}");
        }
    }
}
