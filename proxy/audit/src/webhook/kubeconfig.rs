//! The kubeconfig of a webhook, and the files that it names.

use std::{
    io,
    path::{Path, PathBuf},
};

use http::{Uri, uri};
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig};
use secrecy::{ExposeSecret as _, SecretString};

use super::WebhookError;
use underpass_core::{
    BoxError,
    files::{self, FileFault, Stamps},
    limits,
};
use underpass_https::{Proxy, ProxyUrl};

/// Stands in the place of a proxy's URL where a kubeconfig has none.
const NO_PROXY: &str = "http://no-proxy.invalid/";

/// Where events are sent, and how.
pub(super) struct Target {
    pub(super) config: kube::Config,
    pub(super) path: uri::PathAndQuery,
    /// The kubeconfig's own.
    pub(super) proxy: Option<Proxy>,
    /// Of the files that it was read from, as they were before.
    pub(super) stamps: Stamps,
}

impl Target {
    /// Reads the current context.
    pub(super) async fn read(file: &Path) -> Result<Self, WebhookError> {
        let path = file.to_owned();
        let reading = tokio::task::spawn_blocking(move || load(&path));
        let reading = reading.await.map_err(|error| config(error.into()))?;
        let (kubeconfig, stamps) = reading?;
        let options = KubeConfigOptions::default();
        let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut made = made.map_err(|error| config(error.into()))?;
        // The client puts a request's path behind its base.
        let mut parts = made.cluster_url.clone().into_parts();
        let root = uri::PathAndQuery::from_static("/");
        let path = parts.path_and_query.replace(root.clone()).unwrap_or(root);
        made.cluster_url = Uri::from_parts(parts).map_err(|error| config(error.into()))?;
        let named = made.proxy_url.as_ref().filter(|url| **url != NO_PROXY);
        let named = named.map(|url| url.to_string().parse::<ProxyUrl>());
        let named = named.transpose().map_err(|error| config(error.into()))?;
        Ok(Self {
            config: made,
            path,
            proxy: named.map(Proxy::new),
            stamps,
        })
    }
}

fn config(error: BoxError) -> WebhookError {
    WebhookError::Config(error)
}

/// Reads the file as client-go does, where kube reads it in another way. Blocks.
fn load(path: &Path) -> Result<(Kubeconfig, Stamps), WebhookError> {
    let stamps = Stamps::of(vec![path.to_owned()]);
    is_file(path)?;
    let mut kubeconfig = Kubeconfig::read_from(path).map_err(|error| config(error.into()))?;
    let mut files = Vec::new();
    let clusters = kubeconfig.clusters.iter_mut();
    for cluster in clusters.filter_map(|cluster| cluster.cluster.as_mut()) {
        tidy_cluster(cluster);
        files.extend(cluster.certificate_authority.as_ref().map(PathBuf::from));
        let data = cluster.certificate_authority_data.is_some();
        is_no_pipe(data, cluster.certificate_authority.as_deref())?;
    }
    let current = kubeconfig.current_context.as_deref();
    let mut contexts = kubeconfig.contexts.iter();
    let context = contexts.find(|context| Some(context.name.as_str()) == current);
    let user = context.and_then(|context| context.context.as_ref()?.user.as_deref());
    let mut users = kubeconfig.auth_infos.iter_mut();
    let user = users.find(|one| Some(one.name.as_str()) == user);
    let Some(user) = user.and_then(|user| user.auth_info.as_mut()) else {
        return Ok((kubeconfig, stamps.and(&files)));
    };
    tidy_user(user);
    let named = [&user.client_certificate, &user.client_key, &user.token_file];
    files.extend(named.into_iter().flatten().map(PathBuf::from));
    let stamps = stamps.and(&files);
    let data = user.client_certificate_data.is_some();
    is_no_pipe(data, user.client_certificate.as_deref())?;
    let data = user.client_key_data.is_some();
    is_no_pipe(data, user.client_key.as_deref())?;
    if let Some(path) = user.token_file.take() {
        user.token = Some(token(PathBuf::from(path))?);
    }
    Ok((kubeconfig, stamps))
}

/// client-go takes an empty value for one that is not there, and line breaks in base64 for none.
fn tidy_cluster(cluster: &mut Cluster) {
    forget_empty(&mut cluster.certificate_authority);
    forget_empty(&mut cluster.certificate_authority_data);
    forget_empty(&mut cluster.tls_server_name);
    if let Some(data) = &mut cluster.certificate_authority_data {
        join(data);
    }
    // kube would take the environment's, and knows no exceptions.
    forget_empty(&mut cluster.proxy_url);
    cluster.proxy_url.get_or_insert_with(|| NO_PROXY.to_owned());
}

fn tidy_user(user: &mut AuthInfo) {
    forget_empty(&mut user.token_file);
    forget_empty(&mut user.client_certificate);
    forget_empty(&mut user.client_certificate_data);
    forget_empty(&mut user.client_key);
    if let Some(data) = &mut user.client_certificate_data {
        join(data);
    }
    for secret in [&mut user.token, &mut user.client_key_data] {
        if secret
            .as_ref()
            .is_some_and(|secret| secret.expose_secret().is_empty())
        {
            *secret = None;
        }
    }
    if let Some(key) = &user.client_key_data {
        let mut text = key.expose_secret().to_owned();
        join(&mut text);
        user.client_key_data = Some(text.into());
    }
}

fn forget_empty(value: &mut Option<String>) {
    if value.as_ref().is_some_and(String::is_empty) {
        *value = None;
    }
}

fn join(base64: &mut String) {
    base64.retain(|character| !character.is_ascii_whitespace());
}

/// A file that kube reads where it has no data in its place. Blocks.
fn is_no_pipe(has_data: bool, path: Option<&str>) -> Result<(), WebhookError> {
    match path {
        Some(path) if !has_data => is_file(Path::new(path)),
        _ => Ok(()),
    }
}

/// kube reads it, and would wait for the writer of a pipe. kube names every other fault of it. Blocks.
fn is_file(path: &Path) -> Result<(), WebhookError> {
    match files::open(path, u64::MAX) {
        Err(fault @ FileFault::NoFile) => Err(WebhookError::File {
            path: path.to_owned(),
            source: fault.into(),
        }),
        _ => Ok(()),
    }
}

/// Editors and `echo` end a file with a line feed, which no header holds. The file counts before a token beside it.
fn token(path: PathBuf) -> Result<SecretString, WebhookError> {
    let read = files::read_text(&path, limits::TOKEN_FILE_BYTES);
    let read = read
        .map(|mut text| SecretString::from(std::mem::take(&mut *text)))
        .and_then(|text| match text.expose_secret().trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
            token => Ok(SecretString::from(token)),
        });
    read.map_err(|source| WebhookError::TokenFile { path, source })
}
