//! Subjects of bindings.

use serde::{Deserialize, Serialize};

use crate::{Authority, Name};

/// A binding's subject: `{"user": NAME}` or `{"group": NAME}`, and `authority` where one in particular must give the name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Subject {
    /// A user or a group.
    pub kind: SubjectKind,
    /// The name.
    pub name: Name,
    /// The authority that must vouch for the name. Without it, any authority may, except that an authenticator needs a link
    /// for a name of the directory.
    pub authority: Option<Authority>,
}

/// A user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectKind {
    /// A user.
    User,
    /// A group.
    Group,
}

impl Subject {
    /// The user of this name, at any authority.
    pub fn user(name: Name) -> Self {
        Self {
            kind: SubjectKind::User,
            name,
            authority: None,
        }
    }

    /// The group of this name, at any authority.
    pub fn group(name: Name) -> Self {
        Self {
            kind: SubjectKind::Group,
            ..Self::user(name)
        }
    }

    /// The same name, given by `authority` only.
    #[must_use]
    pub fn of(self, authority: Authority) -> Self {
        Self {
            authority: Some(authority),
            ..self
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            SubjectKind::User => "user",
            SubjectKind::Group => "group",
        };
        write!(f, "{kind}:{}", self.name)?;
        match &self.authority {
            Some(authority) => write!(f, "({authority})"),
            None => Ok(()),
        }
    }
}

/// A user or a group whom a binding names: exactly one of the two.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Form {
    /// A user, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    user: Option<Name>,
    /// A group, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    group: Option<Name>,
    /// The authority that must vouch for the name: `directory`, or kind and name of an authenticator, such as `ldap/corp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    authority: Option<Authority>,
}

/// There is no user or group in it, or both.
#[derive(Debug, thiserror::Error)]
#[error("a subject is either a user or a group: {{\"user\": NAME}} or {{\"group\": NAME}}")]
struct NotOne;

impl TryFrom<Form> for Subject {
    type Error = NotOne;

    fn try_from(form: Form) -> Result<Self, NotOne> {
        let subject = match (form.user, form.group) {
            (Some(user), None) => Self::user(user),
            (None, Some(group)) => Self::group(group),
            _ => return Err(NotOne),
        };
        Ok(Self {
            authority: form.authority,
            ..subject
        })
    }
}

impl From<Subject> for Form {
    fn from(subject: Subject) -> Self {
        let Subject {
            kind,
            name,
            authority,
        } = subject;
        let (user, group) = match kind {
            SubjectKind::User => (Some(name), None),
            SubjectKind::Group => (None, Some(name)),
        };
        Self {
            user,
            group,
            authority,
        }
    }
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Subject {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        Form::schema()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Subject {
    fn name() -> std::borrow::Cow<'static, str> {
        "Subject".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_they_always_were() {
        let alice: Name = "alice".parse().unwrap();
        for (text, subject) in [
            (r#"{"user":"alice"}"#, Subject::user(alice.clone())),
            (r#"{"group":"alice"}"#, Subject::group(alice.clone())),
            (
                r#"{"user":"alice","authority":"directory"}"#,
                Subject::user(alice.clone()).of(Authority::Directory),
            ),
            (
                r#"{"group":"alice","authority":"ldap/corp"}"#,
                Subject::group(alice).of("ldap/corp".parse().unwrap()),
            ),
        ] {
            assert_eq!(serde_json::to_string(&subject).unwrap(), text);
            assert_eq!(serde_json::from_str::<Subject>(text).unwrap(), subject);
        }
        for wrong in [
            "{}",
            r#"{"user":"a","group":"b"}"#,
            r#"{"user":"a","x":1}"#,
            r#"{"user":"a","authority":"corp"}"#,
        ] {
            serde_json::from_str::<Subject>(wrong).unwrap_err();
        }
    }
}
