//! Reads the cluster and the credential of a kubeconfig, and of the files that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use zeroize::Zeroizing;

use underpass_api::{CredentialSpec, DirectSpec, Secret};
use underpass_core::{ClusterPolicy, files, limits, yaml::Fault};

/// The extension of a cluster that is for its plugins.
const PLUGINS_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Why a kubeconfig cannot be used. Nothing secret of it is repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeconfigError {
    /// It is not a kubeconfig. The error does not repeat the file, which holds credentials.
    #[error("{path:?} is no valid kubeconfig")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where it is wrong.
        source: Fault,
    },
    /// It names no context, and none was asked for.
    #[error("the kubeconfig has no current context; say which one (--context)")]
    NoContext,
    /// It has no such entry.
    #[error("the kubeconfig has no {kind} {name:?}")]
    Missing {
        /// Which list it would be in.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It has two entries of one name; kubectl refuses that, too.
    #[error("two of the kubeconfig's {list} have the name {name:?}")]
    Twice {
        /// Which list.
        list: &'static str,
        /// The name.
        name: String,
    },
    /// It asks for what is not done here.
    #[error("the kubeconfig has {0:?}, which a direct cluster does not support")]
    Unsupported(&'static str),
    /// Without a way to prove who we are nobody can be impersonated.
    #[error(
        "the kubeconfig's user has {0}; a direct cluster needs exactly one of a token, a client certificate with its key, \
         and an exec plugin"
    )]
    Credentials(&'static str),
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Data that is not base64 of text.
    #[error("the kubeconfig's {0:?} is not PEM in base64")]
    Data(&'static str),
    /// The plugin is not there.
    #[error(
        "the exec plugin {0:?} is not in PATH; the kubeconfig has to name it by its absolute path"
    )]
    NoPlugin(String),
    /// Without TLS, everybody on the way would have the credential.
    #[error("the API server's URL is http; it has to be https")]
    Plain,
    /// No header can hold the token.
    #[error("the token holds characters that no token has")]
    Token,
}

/// The parts of a kubeconfig that matter here. kube's types hide secrets from us, too.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    #[serde(default, deserialize_with = "or_zero")]
    contexts: Vec<NamedContext>,
    #[serde(default, deserialize_with = "or_zero")]
    clusters: Vec<NamedCluster>,
    #[serde(default, deserialize_with = "or_zero")]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default, deserialize_with = "or_zero")]
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default, deserialize_with = "or_zero")]
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<Zeroizing<String>>,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
    #[serde(default, deserialize_with = "or_zero")]
    insecure_skip_tls_verify: bool,
    #[serde(default, deserialize_with = "or_zero")]
    extensions: Vec<NamedExtension>,
}

#[derive(Deserialize)]
struct NamedExtension {
    name: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<Zeroizing<String>>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<Zeroizing<String>>,
    client_key: Option<PathBuf>,
    client_key_data: Option<Zeroizing<String>>,
    exec: Option<Plugin>,
    username: Option<Zeroizing<String>>,
    auth_provider: Option<IgnoredAny>,
    r#as: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<Vec<IgnoredAny>>,
    as_user_extra: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    command: String,
    args: Option<Vec<Zeroizing<String>>>,
    env: Option<Vec<Variable>>,
    #[serde(default, deserialize_with = "or_zero")]
    provide_cluster_info: bool,
    interactive_mode: Option<String>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(default, deserialize_with = "or_zero")]
    value: Zeroizing<String>,
}

/// Go reads `null` as the zero value of every type, and tools write it.
fn or_zero<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a context of a kubeconfig; the current one without a name. Blocks.
///
/// # Errors
/// The field that is missing or unusable.
pub(crate) fn read_kubeconfig(
    path: &Path,
    context: Option<&str>,
) -> Result<DirectSpec, KubeconfigError> {
    let text = read(path)?;
    let file = serde_saphyr::from_str(&text);
    let file: File = file.map_err(|error| KubeconfigError::Malformed {
        path: path.to_owned(),
        source: Fault::of(&error),
    })?;
    once("contexts", file.contexts.iter().map(|one| &one.name))?;
    once("clusters", file.clusters.iter().map(|one| &one.name))?;
    once("users", file.users.iter().map(|one| &one.name))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = context.or(file.current_context.as_deref());
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or(KubeconfigError::NoContext)?;
    let mut contexts = file.contexts.into_iter();
    let context = contexts.find(|one| one.name == name);
    let context = context.ok_or_else(|| missing("context", name))?.context;
    let mut clusters = file.clusters.into_iter();
    let cluster = clusters.find(|one| one.name == context.cluster);
    let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?;
    let mut users = file.users.into_iter();
    let user = users.find(|one| one.name == context.user);
    let user = user.ok_or_else(|| missing("user", &context.user))?;
    refuse_plugin(&cluster.cluster, user.user.exec.as_ref())?;
    let spec = endpoint(cluster.cluster, folder)?;
    Ok(DirectSpec {
        credential: Some(credential(user.user, folder)?),
        ..spec
    })
}

fn once<'a>(
    list: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), KubeconfigError> {
    let mut seen = BTreeSet::new();
    let mut names = names;
    match names.find(|&name| !seen.insert(name)) {
        Some(name) => Err(KubeconfigError::Twice {
            list,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

/// Such a fault would show when the server runs the plugin, far from here.
fn refuse_plugin(cluster: &Cluster, plugin: Option<&Plugin>) -> Result<(), KubeconfigError> {
    let Some(plugin) = plugin else {
        return Ok(());
    };
    if plugin.interactive_mode.as_deref() == Some("Always") {
        return Err(KubeconfigError::Unsupported("interactiveMode: Always"));
    }
    let mut extensions = cluster.extensions.iter();
    let wanted = plugin.provide_cluster_info && extensions.any(|one| one.name == PLUGINS_EXTENSION);
    match wanted {
        true => Err(KubeconfigError::Unsupported(PLUGINS_EXTENSION)),
        false => Ok(()),
    }
}

fn missing(kind: &'static str, name: &str) -> KubeconfigError {
    KubeconfigError::Missing {
        kind,
        name: name.to_owned(),
    }
}

fn endpoint(cluster: Cluster, folder: &Path) -> Result<DirectSpec, KubeconfigError> {
    if cluster.insecure_skip_tls_verify {
        // Security rule 10.
        return Err(KubeconfigError::Unsupported("insecure-skip-tls-verify"));
    }
    if said(cluster.proxy_url).is_some() {
        return Err(KubeconfigError::Unsupported("proxy-url"));
    }
    let authority = pem(
        "certificate-authority-data",
        cluster.certificate_authority_data,
        cluster.certificate_authority,
        folder,
    )?;
    if cluster.server.starts_with("http:") {
        return Err(KubeconfigError::Plain);
    }
    Ok(DirectSpec {
        server: cluster.server,
        certificate_authority: authority.map(|pem| pem.to_string()),
        tls_server_name: said(cluster.tls_server_name),
        policy: ClusterPolicy::default(),
        credential: None,
    })
}

fn credential(user: User, folder: &Path) -> Result<CredentialSpec, KubeconfigError> {
    let acts = said(user.r#as).or(said(user.as_uid)).is_some()
        || user.as_groups.is_some_and(|groups| !groups.is_empty())
        || user.as_user_extra.is_some_and(|extra| !extra.is_empty());
    for (name, there) in [
        ("username", said(user.username).is_some()),
        ("auth-provider", user.auth_provider.is_some()),
        ("as", acts),
    ] {
        if there {
            return Err(KubeconfigError::Unsupported(name));
        }
    }
    // The file counts before a token beside it, as with client-go.
    let token = match (
        user.token_file.filter(|path| is_said(path)),
        said(user.token),
    ) {
        (Some(path), _) => {
            let text = read(&folder.join(path))?;
            Some(Zeroizing::new(text.trim().to_owned()))
        }
        (None, token) => token,
    };
    let certificate = pem(
        "client-certificate-data",
        user.client_certificate_data,
        user.client_certificate,
        folder,
    )?;
    let key = pem(
        "client-key-data",
        user.client_key_data,
        user.client_key,
        folder,
    )?;
    match (token, certificate, key, user.exec) {
        (Some(token), None, None, None) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(CredentialSpec::Token(Secret(token)))
        }
        (Some(_), None, None, None) => Err(KubeconfigError::Token),
        (None, Some(certificate), Some(key), None) => Ok(CredentialSpec::ClientCertificate {
            certificate: certificate.to_string(),
            key: Secret(key),
        }),
        (None, None, None, Some(plugin)) => exec(plugin, folder),
        (None, None, None, None) => Err(KubeconfigError::Credentials("none of them")),
        (None, _, _, None) => Err(KubeconfigError::Credentials(
            "a client certificate or a key, but not both",
        )),
        _ => Err(KubeconfigError::Credentials("several")),
    }
}

/// A bare name is looked for as a shell would, a path is relative to the kubeconfig: client-go does the same.
fn exec(plugin: Plugin, folder: &Path) -> Result<CredentialSpec, KubeconfigError> {
    let command = Path::new(&plugin.command);
    let found = match command.components().count() {
        1 if !command.is_absolute() => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&path).map(|folder| folder.join(command));
            places.find(|place| place.is_file())
        }
        _ => std::path::absolute(folder.join(command)).ok(),
    };
    let found = found.as_deref().and_then(Path::to_str);
    let found = found.ok_or_else(|| KubeconfigError::NoPlugin(plugin.command.clone()))?;
    let env = plugin.env.unwrap_or_default();
    let args = plugin.args.unwrap_or_default();
    Ok(CredentialSpec::Exec {
        command: found.to_owned(),
        args: args.into_iter().map(Secret).collect(),
        env: env
            .into_iter()
            .map(|one| (one.name, Secret(one.value)))
            .collect(),
    })
}

/// PEM, of the kubeconfig itself or of a file that it names.
fn pem(
    field: &'static str,
    data: Option<Zeroizing<String>>,
    file: Option<PathBuf>,
    folder: &Path,
) -> Result<Option<Zeroizing<String>>, KubeconfigError> {
    let Some(mut data) = said(data) else {
        let file = file.filter(|path| is_said(path));
        return file.map(|path| read(&folder.join(path))).transpose();
    };
    // Tools wrap it at 64 or 76 characters.
    data.retain(|character| !character.is_ascii_whitespace());
    let bytes = BASE64
        .decode(data.as_bytes())
        .map_err(|_| KubeconfigError::Data(field))?;
    let text = String::from_utf8(bytes).map_err(|_| KubeconfigError::Data(field))?;
    Ok(Some(Zeroizing::new(text)))
}

/// client-go takes an empty value for one that is not there.
fn said<T: AsRef<str>>(value: Option<T>) -> Option<T> {
    value.filter(|value| !value.as_ref().is_empty())
}

fn is_said(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn read(path: &Path) -> Result<Zeroizing<String>, KubeconfigError> {
    let text = files::read_text_once(path, limits::KUBECONFIG_BYTES);
    text.map_err(|source| KubeconfigError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn import(cluster: &str, user: &str) -> Result<DirectSpec, KubeconfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(dir.path().join("token"), "hunter2\n").unwrap();
        let text = format!(
            "current-context: one\ncontexts: [{{name: one, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        );
        fs::write(&path, text).unwrap();
        read_kubeconfig(&path, None)
    }

    const SERVER: &str = "server: 'https://h:6443'";

    #[test]
    fn files_beside_it_are_taken_along() {
        let cluster = format!("{SERVER}, certificate-authority: ca.pem");
        let imported = import(&cluster, "tokenFile: token").unwrap();
        assert_eq!(imported.server, "https://h:6443");
        assert!(imported.certificate_authority.is_some());
        let Some(CredentialSpec::Token(token)) = imported.credential else {
            panic!("{imported:?}");
        };
        assert_eq!(token.0.as_str(), "hunter2");
        let pair = "client-certificate: ca.pem, client-key: key.pem";
        let imported = import(SERVER, pair).unwrap();
        let Some(CredentialSpec::ClientCertificate { certificate, .. }) = imported.credential
        else {
            panic!("{imported:?}");
        };
        assert!(certificate.contains("BEGIN CERTIFICATE"));
    }

    fn token(user: &str) -> String {
        match import(SERVER, user).unwrap().credential {
            Some(CredentialSpec::Token(token)) => token.0.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn empty_values_are_absent_and_a_token_file_counts_first() {
        assert_eq!(token("token: other, tokenFile: token"), "hunter2");
        assert_eq!(token("token: '', tokenFile: token"), "hunter2");
        let rest = "username: '', as: '', as-uid: '', as-groups: [], as-user-extra: {}, \
                    client-certificate: '', client-key-data: '', tokenFile: ''";
        assert_eq!(token(&format!("token: one, {rest}")), "one");
        let cluster = format!(
            "{SERVER}, certificate-authority-data: '', certificate-authority: ca.pem, tls-server-name: '', proxy-url: ''"
        );
        let imported = import(&cluster, "token: t").unwrap();
        assert!(imported.certificate_authority.is_some());
        assert_eq!(imported.tls_server_name, None);
        let cluster =
            format!("{SERVER}, certificate-authority-data: '', certificate-authority: ''");
        let imported = import(&cluster, "token: t").unwrap();
        assert_eq!(imported.certificate_authority, None);
        for acts in [
            "as: a",
            "as-uid: a",
            "as-groups: [a]",
            "as-user-extra: {a: [b]}",
        ] {
            let error = import(SERVER, &format!("token: t, {acts}")).unwrap_err();
            assert!(
                matches!(error, KubeconfigError::Unsupported("as")),
                "{acts}"
            );
        }
    }

    #[test]
    fn data_may_have_line_breaks() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let data = BASE64.encode(pem);
        let (begin, end) = data.split_at(40);
        let cluster = format!("{SERVER}, certificate-authority-data: \"{begin}\\r\\n  {end}\\n\"");
        let imported = import(&cluster, "token: t").unwrap();
        assert_eq!(imported.certificate_authority.as_deref(), Some(pem));
        let cluster = format!("{SERVER}, certificate-authority-data: '{begin}!{end}'");
        let error = import(&cluster, "token: t").unwrap_err();
        assert!(matches!(error, KubeconfigError::Data(_)));
    }

    #[test]
    fn a_plugin_is_found_as_client_go_finds_it() {
        let command = |command: &str| {
            let user =
                format!("exec: {{command: {command}, args: [a], env: [{{name: A, value: b}}]}}");
            match import(SERVER, &user).unwrap().credential {
                Some(CredentialSpec::Exec { command, args, env }) => (command, args, env),
                other => panic!("{other:?}"),
            }
        };
        let bare = command("sh");
        assert!(bare.0.starts_with('/') && bare.0.ends_with("/sh"));
        assert_eq!(bare.1[0].0.as_str(), "a");
        assert_eq!(bare.2["A"].0.as_str(), "b");
        assert!(command("./plugin").0.ends_with("/plugin"));
        assert_eq!(command("/opt/plugin").0, "/opt/plugin");
        let missing = import(SERVER, "exec: {command: no-such-plugin-anywhere}");
        assert!(matches!(missing, Err(KubeconfigError::NoPlugin(_))));
    }

    /// As Go reads them: `kubectl config view` and tools write `null` for fields that are not set.
    #[test]
    fn null_is_absent_and_a_name_stands_for_one_entry() {
        let cluster = format!("{SERVER}, insecure-skip-tls-verify: null, extensions: null");
        let user = "exec: {command: /p, args: null, env: [{name: A}, {name: B, value: null}], \
                    provideClusterInfo: null, interactiveMode: null, installHint: x}";
        let Some(CredentialSpec::Exec { env, .. }) = import(&cluster, user).unwrap().credential
        else {
            panic!("a plugin");
        };
        assert_eq!(env["A"].0.as_str(), "");
        assert_eq!(env["B"].0.as_str(), "");
        let twice = "token: t}}, {name: u, user: {token: hunter2";
        let error = import(SERVER, twice).unwrap_err();
        assert_eq!(
            error.to_string(),
            "two of the kubeconfig's users have the name \"u\""
        );
    }

    #[test]
    fn a_plugin_that_could_not_work_is_refused() {
        let extension =
            "extensions: [{name: client.authentication.k8s.io/exec, extension: {audience: x}}]";
        let told = "exec: {command: /p, provideClusterInfo: true}";
        import(SERVER, told).unwrap();
        for (cluster, user, named) in [
            (extension, told, PLUGINS_EXTENSION),
            (
                "tls-server-name: x",
                "exec: {command: /p, interactiveMode: Always}",
                "interactiveMode: Always",
            ),
        ] {
            let error = import(&format!("{SERVER}, {cluster}"), user).unwrap_err();
            assert!(
                matches!(error, KubeconfigError::Unsupported(what) if what == named),
                "{error:?}"
            );
        }
        import(&format!("{SERVER}, {extension}"), "exec: {command: /p}").unwrap();
    }

    #[test]
    fn rule_10_what_is_not_supported_is_named() {
        for (cluster, user, named) in [
            (
                "insecure-skip-tls-verify: true",
                "token: t",
                "insecure-skip-tls-verify",
            ),
            ("proxy-url: 'http://p'", "token: t", "proxy-url"),
            (
                "tls-server-name: x",
                "username: a, password: hunter2",
                "username",
            ),
            ("tls-server-name: x", "token: t, as: admin", "as"),
            (
                "tls-server-name: x",
                "auth-provider: {name: gcp}",
                "auth-provider",
            ),
        ] {
            let error = import(&format!("{SERVER}, {cluster}"), user).unwrap_err();
            assert!(
                matches!(error, KubeconfigError::Unsupported(what) if what == named),
                "{error:?}"
            );
        }
        let plain = import("server: 'http://h'", "token: t").unwrap_err();
        assert!(matches!(plain, KubeconfigError::Plain));
    }

    #[test]
    fn exactly_one_credential_and_no_secret_in_an_error() {
        for user in [
            "",
            "client-certificate: ca.pem",
            "client-key: key.pem",
            "token: hunter2, client-certificate: ca.pem, client-key: key.pem",
            "token: hunter2, exec: {command: /p}",
        ] {
            let error = import(SERVER, user).unwrap_err();
            assert!(matches!(error, KubeconfigError::Credentials(_)), "{user}");
        }
        for user in [
            "token: 'hunter2 x'",
            "token: [hunter2]",
            "client-certificate-data: hunter2, client-key-data: hunter2",
        ] {
            let error = import(SERVER, user).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn rule_11_a_kubeconfig_that_is_cut_off_shows_nothing_of_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\nusers:\n- name: u\n  \
                    user:\n    token: \"hunter2hunter2\"\n    exec: {command: p, args: [hunter2]}\nclusters: []\n";
        let mut wrong = 0;
        for end in 0..text.len() {
            fs::write(&path, &text[..end]).unwrap();
            let error = read_kubeconfig(&path, None).unwrap_err();
            let source = std::error::Error::source(&error).map(|one| format!("{one} {one:?}"));
            let told = format!("{error} {error:?} {source:?}");
            assert!(!told.contains("hunter"), "{told}");
            if let KubeconfigError::Malformed { source, .. } = &error {
                wrong += 1;
                assert!(source.to_string().starts_with("line "), "{source}");
            }
        }
        assert!(wrong > 50, "{wrong}");
    }
}
