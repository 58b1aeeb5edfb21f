//! The rights that a cluster must grant before somebody acts as somebody else.
//!
//! The same checks as kube-apiserver's own for the headers `Impersonate-*` (`impersonationModeState` in
//! apiserver/pkg/endpoints/filters/impersonation/mode.go, verb `impersonate`): one for the user, one for the uid, one for
//! each group and one for each value of an extra.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use underpass_core::{ClusterName, Identity, Impersonated, service_account};

/// The group of everybody whom a cluster has authenticated.
const AUTHENTICATED: &str = "system:authenticated";

/// The name of a question, of which two have the same only if they are the same.
pub(super) type Key = [u8; 32];

/// May this caller act as this target in this cluster?
#[derive(Debug)]
pub(super) struct Question {
    pub(super) cluster: ClusterName,
    caller: Caller,
    target: String,
    parts: Vec<Impersonated>,
}

/// A caller as the cluster knows them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// With the groups that kube-apiserver adds to an impersonated user.
    fn new(caller: &Identity) -> Self {
        let mut groups = caller.groups().to_vec();
        if let (true, Some((namespace, _))) =
            (groups.is_empty(), service_account::split(caller.user()))
        {
            groups.extend(service_account::groups(namespace));
        }
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            user: caller.user().to_owned(),
            uid: caller.uid().map(str::to_owned),
            groups,
            extra: caller.extra().clone(),
        }
    }
}

/// A SubjectAccessReview (authorization.k8s.io/v1) to be made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(flatten)]
    caller: &'a Caller,
    resource_attributes: &'a Impersonated,
}

impl Question {
    /// The caller's name.
    pub(super) fn caller(&self) -> &str {
        &self.caller.user
    }

    pub(super) fn new(cluster: &ClusterName, caller: &Identity, target: &Identity) -> Self {
        Self {
            cluster: cluster.clone(),
            caller: Caller::new(caller),
            target: target.user().to_owned(),
            parts: Impersonated::parts(target),
        }
    }

    pub(super) fn user(&self) -> &str {
        &self.caller.user
    }

    /// The user to act as.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// The rights that the cluster must grant.
    pub(super) fn parts(&self) -> &[Impersonated] {
        &self.parts
    }

    /// Asks for one of the parts.
    pub(super) fn review<'a>(&'a self, part: &'a Impersonated) -> Review<'a> {
        Review {
            api_version: "authorization.k8s.io/v1",
            kind: "SubjectAccessReview",
            spec: Spec {
                caller: &self.caller,
                resource_attributes: part,
            },
        }
    }
}

/// The name of the question that [`Question::new`] makes of the same.
pub(super) fn key(cluster: &ClusterName, caller: &Identity, target: &Identity) -> Key {
    let mut hash = Hash(Context::new(&SHA256));
    hash.text(cluster.as_str());
    hash.identity(caller);
    hash.identity(target);
    let mut key = Key::default();
    let digest = hash.0.finish();
    key.iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    key
}

/// Lengths stand before texts and lists, so that nothing runs into the next.
struct Hash(Context);

impl Hash {
    fn length(&mut self, length: usize) {
        self.0.update(&length.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.update(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.length(texts.len());
        texts.iter().for_each(|text| self.text(text));
    }

    fn identity(&mut self, identity: &Identity) {
        self.text(identity.user());
        // A uid is never empty.
        self.text(identity.uid().unwrap_or_default());
        self.texts(identity.groups());
        self.length(identity.extra().len());
        for (key, values) in identity.extra() {
            self.text(key);
            self.texts(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AUTHENTICATION: &str = "authentication.k8s.io";

    fn identity(
        user: &str,
        uid: Option<&str>,
        groups: &[&str],
        extra: &[(&str, &str)],
    ) -> Identity {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let mut map = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in extra {
            let values = map.entry((*key).to_owned()).or_default();
            values.push((*value).to_owned());
        }
        Identity::new(user.to_owned(), uid.map(str::to_owned), groups, map).unwrap()
    }

    fn edge() -> ClusterName {
        ClusterName::new("edge").unwrap()
    }

    fn asked(caller: &Identity, target: &Identity) -> Vec<Value> {
        let question = Question::new(&edge(), caller, target);
        let reviews = question.parts().iter().map(|part| question.review(part));
        let json = |review| serde_json::to_value(review).unwrap();
        reviews.map(json).collect()
    }

    #[test]
    fn rule_16_each_part_is_asked_for_as_the_real_user() {
        let alice = identity("alice", Some("7"), &["dev"], &[("example.org/team", "ops")]);
        let extra = [("example.org/a", "x"), ("example.org/a", "y"), ("b", "z")];
        let bob = identity("bob", Some("8"), &["g", "h"], &extra);
        let reviews = asked(&alice, &bob);
        for review in &reviews {
            assert_eq!(review["apiVersion"], "authorization.k8s.io/v1");
            assert_eq!(review["kind"], "SubjectAccessReview");
            let spec = &review["spec"];
            assert_eq!(spec["user"], "alice");
            assert_eq!(spec["uid"], "7");
            assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
            assert_eq!(spec["extra"], json!({ "example.org/team": ["ops"] }));
        }
        let part = |group: &str, resource: &str, name: &str| json!({ "verb": "impersonate", "group": group, "resource": resource, "name": name });
        let extra = |key: &str, value: &str| {
            let mut extra = part(AUTHENTICATION, "userextras", value);
            extra["subresource"] = json!(key);
            extra
        };
        let parts: Vec<_> = reviews
            .iter()
            .map(|review| review["spec"]["resourceAttributes"].clone())
            .collect();
        assert_eq!(
            parts,
            [
                part("", "users", "bob"),
                part(AUTHENTICATION, "uids", "8"),
                part("", "groups", "g"),
                part("", "groups", "h"),
                extra("b", "z"),
                extra("example.org/a", "x"),
                extra("example.org/a", "y"),
            ]
        );
    }

    #[test]
    fn service_accounts_are_in_a_namespace() {
        let account = identity("system:serviceaccount:ci:deployer", None, &[], &[]);
        let alice = identity("alice", None, &[], &[]);
        let [review] = &asked(&alice, &account)[..] else {
            panic!("one part");
        };
        let attributes = json!({
            "verb": "impersonate", "group": "", "resource": "serviceaccounts",
            "namespace": "ci", "name": "deployer",
        });
        assert_eq!(review["spec"]["resourceAttributes"], attributes);
        // And one that asks has the groups that it would have there.
        let [review] = &asked(&account, &alice)[..] else {
            panic!("one part");
        };
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:ci",
            "system:authenticated",
        ];
        assert_eq!(review["spec"]["groups"], json!(groups));
    }

    #[test]
    fn what_is_refused_reads_like_kubernetes() {
        let target = identity(
            "system:serviceaccount:ci:deployer",
            Some("8"),
            &[],
            &[("example.org/a", "x")],
        );
        let said: Vec<_> = Impersonated::parts(&target)
            .iter()
            .map(|part| format!("{part}: {}", part.long()))
            .collect();
        assert_eq!(
            said,
            [
                "serviceaccounts \"deployer\": resource \"serviceaccounts\" in API group \"\" in the \
                 namespace \"ci\"",
                "uids.authentication.k8s.io \"8\": resource \"uids\" in API group \
                 \"authentication.k8s.io\" at the cluster scope",
                "userextras.authentication.k8s.io \"x\": resource \"userextras/example.org/a\" in API \
                 group \"authentication.k8s.io\" at the cluster scope",
            ]
        );
    }

    #[test]
    fn rule_16_no_two_questions_have_the_same_name() {
        let alice = identity("alice", None, &[], &[]);
        let people = [
            identity("bob", None, &[], &[]),
            identity("bo", None, &["b"], &[]),
            identity("bob", Some("g"), &[], &[]),
            identity("bob", None, &["g"], &[]),
            identity("bob", None, &["g", "h"], &[]),
            identity("bob", None, &["gh"], &[]),
            identity("bob", None, &[], &[("g", "h")]),
            identity("bob", None, &[], &[("g", "h"), ("g", "i")]),
            identity("bob", None, &[], &[("g", "h"), ("i", "j")]),
        ];
        let mut keys = std::collections::HashSet::new();
        for bob in &people {
            assert!(keys.insert(key(&edge(), &alice, bob)), "{bob:?}");
            assert!(keys.insert(key(&edge(), bob, &alice)), "{bob:?}");
        }
        let other = ClusterName::new("other").unwrap();
        assert!(keys.insert(key(&other, &alice, &people[0])));
        assert!(!keys.insert(key(&edge(), &alice, &people[0].clone())));
    }
}
