//! Reading and writing the access file.

use super::{Access, AccessError, Invalid};
use crate::data_dir::DataDir;

/// The file's name in the data directory.
pub(super) const NAME: &str = "access.yaml";

const HEADER: &str = "\
# Who may do what on this Underpass server. Tokens are hashes: none can be read back.
# The underpass-server subcommands change this file and keep what you change by hand,
# except comments. The running server reads it again within a second.
";

impl Access {
    /// Reads the file; one that is missing is empty.
    pub(super) fn load(data: &DataDir) -> Result<Self, AccessError> {
        let Some(text) = data.read(NAME)? else {
            return Ok(Self::default());
        };
        let path = || data.path(NAME).display().to_string();
        // A file that is being written, or that a full disk has cut off, must not look like one that names nobody.
        if text.trim().is_empty() {
            return Err(AccessError::Invalid(path(), Invalid::Empty));
        }
        let access: Self = match serde_saphyr::from_str(&text) {
            Ok(access) => access,
            Err(error) => return Err(AccessError::Parse(path(), Box::new(error))),
        };
        access
            .validate()
            .map_err(|invalid| AccessError::Invalid(path(), invalid))?;
        Ok(access)
    }

    /// Replaces the file.
    pub(super) fn save(&self, data: &DataDir) -> Result<(), AccessError> {
        self.validate()
            .map_err(|invalid| AccessError::Invalid("the changed file".to_owned(), invalid))?;
        let yaml = serde_saphyr::to_string(self)
            .map_err(|error| AccessError::Serialize(Box::new(error)))?;
        Ok(data.write(NAME, &format!("{HEADER}{yaml}"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_text(text: &str) -> Result<Access, AccessError> {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.write(NAME, text).unwrap();
        Access::load(&data)
    }

    #[test]
    fn a_missing_file_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(Access::load(&data).unwrap(), Access::default());
    }

    #[test]
    fn what_is_written_by_hand_is_read() {
        let access = with_text(
            "clusters:\n- name: prod\n- name: edge\n  agents: []\n\
             users:\n- name: alice@example.org\n  groups: [dev, 'null']\n  clusters: ['*']\n",
        )
        .unwrap();
        let alice = access.user("alice@example.org").unwrap();
        assert_eq!(alice.groups, ["dev", "null"]);
        assert!(alice.may_reach(&"prod".parse().unwrap()));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text| underpass_tunnel::chain(&with_text(text).unwrap_err());
        assert!(error("\n").contains("it is empty"));
        assert!(error("users:\n- name: a\n  clutsers: []\n").contains("clutsers"));
        assert!(error("clusters:\n- name: Not_A_Label\n").contains("cluster's name"));
        assert!(error("clusters:\n- name: a\n- name: a\n").contains("`a` stands in it twice"));
        assert!(error("users:\n- name: a\n  tokens:\n  - sha256: zz\n").contains("malformed"));
    }

    #[test]
    fn saving_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let text = "clusters:\n- name: prod\nusers:\n- name: 'o''brien: x'\n  uid: '7'\n  \
                    extra: {scopes: [a, b]}\n  clusters: [prod]\n  tokens:\n  - sha256: \
                    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n    \
                    created: 2026-01-01T00:00:00Z\n    expires: 2027-01-01T00:00:00Z\n";
        data.write(NAME, text).unwrap();
        let access = Access::load(&data).unwrap();
        access.save(&data).unwrap();
        assert_eq!(Access::load(&data).unwrap(), access);
    }
}
