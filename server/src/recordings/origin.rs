//! The origin of a recording: its cluster and its user as they were made. Their names may be another cluster's, and another user's, later.

use serde::{Deserialize, Serialize};
use underpass_core::{ClusterName, Identity, Provenance};
use underpass_directory::{Cluster, CreationId, Snapshot, User};

use super::shares::Holder;

/// The origin of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Origin {
    pub(crate) cluster: CreationId,
    pub(crate) user: UserOrigin,
}

/// The origin of a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum UserOrigin {
    /// The operator of the server.
    Operator,
    /// The directory has made the user, or links another authority's name to them.
    Directory(CreationId),
    /// The authority that gives the name.
    Authority(String),
}

impl Origin {
    /// The share in which recordings of a user's count.
    pub(crate) fn holder(&self, user: &str) -> Holder {
        Holder {
            user: user.to_owned(),
            origin: Some(self.user.clone()),
        }
    }

    /// The origin of what a caller does in a cluster now; `None` where there is no such cluster. The operator has no identity.
    pub(crate) fn now(
        snapshot: &Snapshot,
        cluster: &ClusterName,
        caller: Option<&Identity>,
    ) -> Option<Self> {
        let cluster = snapshot.get::<Cluster>(cluster.as_str())?;
        Some(Self {
            cluster: cluster.object.creation_id(),
            user: match caller {
                Some(caller) => UserOrigin::of(snapshot, caller),
                None => UserOrigin::Operator,
            },
        })
    }
}

impl UserOrigin {
    /// A name of the directory's is the directory's user, for each authority that may give it (security rule 22).
    fn of(snapshot: &Snapshot, caller: &Identity) -> Self {
        match snapshot.get::<User>(caller.user()) {
            Some(user) => Self::Directory(user.object.creation_id()),
            None => {
                let authority = caller.provenance().map(Provenance::authority);
                Self::Authority(authority.map(ToString::to_string).unwrap_or_default())
            }
        }
    }
}
