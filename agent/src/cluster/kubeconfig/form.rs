//! The text of a kubeconfig, read as kubectl reads it.

use kube::config::{AuthInfo, Cluster, Kubeconfig, KubeconfigError};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;
use zeroize::Zeroizing;

/// UTF-8, or UTF-16 with a byte order mark, as PowerShell writes files.
pub(super) fn decode(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let units = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks();
        let units: Vec<u16> = pairs.iter().copied().map(unit).collect();
        let text = String::from_utf16(&units).ok()?;
        odd.is_empty().then_some(text)
    };
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => units(rest, u16::from_le_bytes)?,
        [0xFE, 0xFF, rest @ ..] => units(rest, u16::from_be_bytes)?,
        [0xEF, 0xBB, 0xBF, rest @ ..] | rest => std::str::from_utf8(rest).ok()?.to_owned(),
    };
    Some(Zeroizing::new(text))
}

/// Reads YAML or JSON, with empty values as absent.
pub(super) fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    let read = Kubeconfig::from_yaml(text);
    // The first error is the one that knows where the fault is.
    let read = read.or_else(|error| leniently(text).ok_or(error));
    let mut kubeconfig = read?;
    clean(&mut kubeconfig);
    Ok(kubeconfig)
}

/// Go's decoder takes the last of two fields with the same name, and `null` for the zero value of every type.
fn leniently(text: &str) -> Option<Kubeconfig> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).ok()?;
    let mut merged = Kubeconfig::default();
    for mut document in documents {
        drop_null(&mut document);
        merged = merged.merge(serde_json::from_value(document).ok()?).ok()?;
    }
    Some(merged)
}

fn drop_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_null);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// The kind and name of two entries with one name. kubectl refuses them: which one is meant is not known.
pub(super) fn twice(kubeconfig: &Kubeconfig) -> Option<(&'static str, String)> {
    let contexts = kubeconfig.contexts.iter().map(|one| one.name.as_str());
    let clusters = kubeconfig.clusters.iter().map(|one| one.name.as_str());
    let users = kubeconfig.auth_infos.iter().map(|one| one.name.as_str());
    let contexts = repeated(contexts).map(|name| ("contexts", name));
    contexts
        .or_else(|| repeated(clusters).map(|name| ("clusters", name)))
        .or_else(|| repeated(users).map(|name| ("users", name)))
}

fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    let mut names = names;
    names
        .find(|name| !seen.insert(*name))
        .map(ToOwned::to_owned)
}

/// As client-go has it, an empty value is none, and base64 may have line breaks.
fn clean(kubeconfig: &mut Kubeconfig) {
    drop_empty(&mut kubeconfig.current_context);
    let clusters = kubeconfig.clusters.iter_mut();
    clusters
        .filter_map(|named| named.cluster.as_mut())
        .for_each(clean_cluster);
    let users = kubeconfig.auth_infos.iter_mut();
    users
        .filter_map(|named| named.auth_info.as_mut())
        .for_each(clean_user);
}

fn clean_cluster(cluster: &mut Cluster) {
    [
        &mut cluster.server,
        &mut cluster.certificate_authority,
        &mut cluster.certificate_authority_data,
        &mut cluster.proxy_url,
        &mut cluster.tls_server_name,
    ]
    .into_iter()
    .for_each(drop_empty);
    if let Some(data) = &mut cluster.certificate_authority_data {
        data.retain(is_base64);
    }
}

fn clean_user(user: &mut AuthInfo) {
    [
        &mut user.username,
        &mut user.token_file,
        &mut user.client_certificate,
        &mut user.client_certificate_data,
        &mut user.client_key,
        &mut user.impersonate,
        &mut user.impersonate_uid,
    ]
    .into_iter()
    .for_each(drop_empty);
    [
        &mut user.password,
        &mut user.token,
        &mut user.client_key_data,
    ]
    .into_iter()
    .for_each(drop_empty_secret);
    if let Some(data) = &mut user.client_certificate_data {
        data.retain(is_base64);
    }
    if let Some(data) = &mut user.client_key_data {
        let text: String = data
            .expose_secret()
            .chars()
            .filter(|&one| is_base64(one))
            .collect();
        *data = SecretString::from(text);
    }
}

fn is_base64(character: char) -> bool {
    !character.is_ascii_whitespace()
}

fn drop_empty(value: &mut Option<String>) {
    value.take_if(|text| text.is_empty());
}

fn drop_empty_secret(value: &mut Option<SecretString>) {
    value.take_if(|secret| secret.expose_secret().is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> AuthInfo {
        let text = format!("users: [{{name: u, user: {{{text}}}}}]");
        let mut read = parse(&text).unwrap();
        read.auth_infos.remove(0).auth_info.unwrap()
    }

    #[test]
    fn empty_values_are_absent() {
        let user = user(
            "token: '', tokenFile: \"\", username: '', password: '', client-certificate: '', client-key: '', \
             client-certificate-data: '', client-key-data: '', as: '', as-uid: '', exec: null, auth-provider:",
        );
        let text = serde_json::to_string(&user).unwrap();
        assert_eq!(text, "{}");
        let cluster = "clusters: [{name: c, cluster: {server: 'https://h', tls-server-name: '', proxy-url: '', \
                       certificate-authority: '', certificate-authority-data: ''}}]\ncurrent-context: ''";
        let read = parse(cluster).unwrap();
        assert_eq!(read.current_context, None);
        let text = serde_json::to_string(&read.clusters[0].cluster).unwrap();
        assert_eq!(text, "{\"server\":\"https://h\"}");
    }

    #[test]
    fn data_may_have_line_breaks() {
        let text = "clusters:\n- name: c\n  cluster:\n    certificate-authority-data: |\n      QUJD\n      REVG\n\
                    users:\n- name: u\n  user:\n    client-certificate-data: >-\n      QUJD\n      REVG\n    \
                    client-key-data: |\r\n      QUJD\r\n      REVG\r\n";
        let read = parse(text).unwrap();
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        let data = cluster.certificate_authority_data.as_deref();
        assert_eq!(data, Some("QUJDREVG"));
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.client_certificate_data.as_deref(), Some("QUJDREVG"));
        let key = user.client_key_data.as_ref().unwrap();
        assert_eq!(key.expose_secret(), "QUJDREVG");
    }

    /// Tools write `null` for fields that they do not set; `kubectl config view` shows `config: null`.
    #[test]
    fn null_and_a_field_that_is_there_twice_are_read_as_go_reads_them() {
        let text = "apiVersion: v1\nkind: Config\nclusters: null\npreferences: null\nusers:\n- name: u\n  user:\n    \
                    exec: {command: p, args: null, env: null, provideClusterInfo: null, interactiveMode: null}\n    \
                    auth-provider: {config: null, name: gcp}\n    token: first\n    token: last\n";
        let read = parse(text).unwrap();
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        let exec = user.exec.as_ref().unwrap();
        assert_eq!(exec.command.as_deref(), Some("p"));
        assert!(!exec.provide_cluster_info);
        assert_eq!(user.auth_provider.as_ref().unwrap().name, "gcp");
        let token = user.token.as_ref().unwrap();
        assert_eq!(token.expose_secret(), "last");
    }

    #[test]
    fn json_with_tabs_anchors_and_unknown_fields_are_read() {
        let json = "{\n\t\"kind\": \"Config\",\n\t\"users\": [\n\t\t{\"name\": \"u\",\t\"user\": {\"token\": \"t\"}}\n\t]\n}\n";
        let yaml = "x-users: &users\n- name: u\n  colour: red\n  user: &user {token: t, later: {a: [b]}}\nusers: *users\n";
        let merged = "x: &x {token: t}\nusers:\r\n- name: u\r\n  user:\r\n    <<: *x\r\n";
        for text in [json, yaml, merged] {
            let read = parse(text).unwrap();
            let user = read.auth_infos[0].auth_info.as_ref().unwrap();
            assert_eq!(user.token.as_ref().unwrap().expose_secret(), "t", "{text}");
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_told() {
        for (kind, entry) in [
            (
                "contexts",
                "{name: n, context: {cluster: c}}, {name: m, context: {cluster: c}}",
            ),
            ("clusters", "{name: n, cluster: {}}, {name: m}"),
            ("users", "{name: n}, {name: m}"),
        ] {
            let once = parse(&format!("{kind}: [{entry}]")).unwrap();
            assert_eq!(twice(&once), None);
            let both = parse(&format!(
                "{kind}: [{entry}, {{name: m, context: {{cluster: d}}}}]"
            ));
            assert_eq!(twice(&both.unwrap()), Some((kind, "m".to_owned())));
        }
    }
}
