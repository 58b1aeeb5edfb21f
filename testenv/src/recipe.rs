//! The programs that are built, by Go module.

/// The Kubernetes release that is built; the modules pin it.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// The etcd release that is built; the module pins it.
pub(crate) const ETCD_VERSION: &str = "v3.6.16";

/// Kubernetes's commands, by import path; each is built under its last segment.
const KUBERNETES_COMMANDS: [&str; 3] = [
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kubectl",
];

/// Something to build from one of this crate's Go modules.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// For people, and in the name of the folder.
    pub(crate) name: &'static str,
    /// The module's folder, relative to this crate.
    pub(crate) module: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// The name of the program, if it is not the last segment of its package.
    pub(crate) program: Option<&'static str>,
    /// The folder with sources of our own, relative to the module.
    pub(crate) sources: Option<&'static str>,
    /// The version that the programs are told that they have.
    pub(crate) version: Option<&'static str>,
    /// How long it takes the first time, on two cores.
    pub(crate) minutes: &'static str,
}

pub(crate) const KUBERNETES: Recipe = Recipe {
    name: "kubernetes",
    module: "kubernetes",
    packages: &KUBERNETES_COMMANDS,
    program: None,
    sources: None,
    version: Some(KUBERNETES_VERSION),
    minutes: "6 minutes",
};

pub(crate) const ETCD: Recipe = Recipe {
    name: "etcd",
    module: "etcd",
    packages: &["go.etcd.io/etcd/server/v3"],
    program: Some("etcd"),
    sources: None,
    version: None,
    minutes: "90 seconds",
};

pub(crate) const ETCD_TOOLS: Recipe = Recipe {
    name: "etcd-tools",
    module: "etcd-tools",
    packages: &["go.etcd.io/etcd/etcdctl/v3", "go.etcd.io/etcd/etcdutl/v3"],
    program: None,
    sources: None,
    version: None,
    minutes: "a minute",
};

pub(crate) const NODE: Recipe = Recipe {
    name: "kubelet",
    module: "kubernetes",
    packages: &["./kubelet"],
    program: None,
    sources: Some("kubelet"),
    version: None,
    minutes: "4 seconds where Kubernetes was built, minutes otherwise",
};

pub(crate) const SUPERVISE: Recipe = Recipe {
    name: "supervise",
    module: "supervise",
    packages: &["."],
    program: Some("supervise"),
    sources: Some("."),
    version: None,
    minutes: "a few seconds",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_pins_the_release_that_we_name() {
        let pinned = format!("\n\tk8s.io/kubernetes {KUBERNETES_VERSION}\n");
        let module = include_str!("../kubernetes/go.mod");
        assert!(module.contains(&pinned), "{pinned:?}");
        let pinned = format!("go.etcd.io/etcd/server/v3 {ETCD_VERSION} ");
        let module = include_str!("../etcd/go.mod");
        assert!(module.contains(&pinned), "{pinned:?}");
        let module = include_str!("../etcd-tools/go.mod");
        for tool in ["etcdctl", "etcdutl"] {
            let pinned = format!("go.etcd.io/etcd/{tool}/v3 {ETCD_VERSION} ");
            assert!(module.contains(&pinned), "{pinned:?}");
        }
    }
}
