//! `/v1/login`: a token for a user with a credential. It is the one path that takes callers without authentication.
//!
//! - A name and password of the directory's own: a token that can be renewed for some days.
//! - Such a token: another one, with the same end.
//! - Any other credential of an authenticator (LDAP, OpenID Connect, GitHub, a certificate): a token for the present identity,
//!   which lasts some hours and cannot be renewed: nobody would notice that a group was left meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::StatusCode;
use time::OffsetDateTime;
use underpass_api::{DeviceLoginWay, LoginRequest, LoginWays, TokenRequest};
use underpass_audit::cut;
use underpass_authenticate::{
    AuthenticateError, Authenticated, Authenticator, Caller, Chain, CredentialError, LoginError,
    Password, PasswordHash, Passwords, Token,
};
use underpass_core::{Authority, ConnectionInfo, Identity, Provenance, Rejection, Revocation};
use underpass_directory::{AccessToken, Draft, Login, Name, Named, Owner, Snapshot, User};
use underpass_gateway::Holder;

use super::begun::Begun;
use super::problem::Problem;
use super::share::Whose;
use super::tokens::{self, MadeBy};
use super::{Did, State, body, problem};
use crate::limits;

/// The checks of credentials.
pub(crate) struct Logins {
    pub(crate) chain: Arc<Chain>,
    pub(crate) passwords: Passwords,
    /// Where people may log in with a code, now.
    pub(crate) device_login: Arc<dyn Fn() -> Option<DeviceLoginWay> + Send + Sync>,
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/login", post(log_in).get(ways))
}

async fn ways(state: State) -> Json<LoginWays> {
    Json(LoginWays {
        device: (state.logins.device_login)(),
    })
}

/// A caller's proved identity, and the proof.
struct Proved {
    owner: Owner,
    /// As clusters would see them; nothing for a user of the directory who has shown a password.
    identity: Option<Box<Identity>>,
    made_by: MadeBy,
    proof: Proof,
}

/// The credential shown.
enum Proof {
    /// The password of a user of the directory, as it was kept then.
    Password(Name, PasswordHash),
    /// A credential that counts as long as this.
    Credential(Revocation),
}

impl Proof {
    /// A check takes a while, and others change the directory meanwhile: it is asked again once no other change can come
    /// before the token (rule 25).
    fn counts(&self, draft: &Draft) -> bool {
        match self {
            Self::Password(name, kept) => draft
                .get::<User>(name.as_str())
                .is_some_and(|user| password_of(&user.object) == Some(kept)),
            Self::Credential(revocation) => !revocation.is_revoked(),
        }
    }
}

/// The password of a user's next login.
fn password_of(user: &User) -> Option<&PasswordHash> {
    user.password.as_ref().filter(|_| !user.disabled)
}

async fn log_in(
    state: State,
    info: Option<Extension<ConnectionInfo>>,
    begun: Option<Extension<Begun>>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(Extension(info)) = info else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "the operator's socket takes no logins: use the server's URL",
        ));
    };
    // The credential first: nothing of a stranger's body is read.
    let caller = Caller::read(request.headers(), &info)
        .ok_or_else(unauthorized)?
        .at(request.uri());
    if caller.password().is_some() && caller.is_foreign() {
        return Err(foreign_origin());
    }
    let client = caller.client();
    let proved = state
        .logins
        .prove(&caller, &state.directory.snapshot())
        .await?;
    if begun.is_some_and(|Extension(begun)| !begun.begin()) {
        return Err(unauthorized());
    }
    // From here on the shares of the user count.
    let whose = Whose::from(&proved.owner);
    let _place = state.places.take(whose.clone())?;
    let ready = state.audit_log.ready().await;
    ready.map_err(|_stuck| problem::unwritten())?;
    let wanted: LoginRequest = body::read(request, "a login", limits::LOGIN_BODY).await?;
    state.pace.log_in(&whose)?;
    let token = tokens::generate()?;
    let keep = |draft: &mut Draft| {
        let id = keep(draft, &token, &proved, &wanted)?;
        if let Some(did) = tokens::did(draft, &id) {
            state.commit.is_to(did.by(proved.owner.name()));
        }
        Ok(id)
    };
    let id = state.write(keep).await?;
    tracing::info!(
        target: "underpass::audit",
        %client, user = cut(proved.owner.name(), limits::PROBLEM_CHARS), token = id, "logged in"
    );
    let made = tokens::made(&state.directory.snapshot(), &id, &token)?;
    let did = Did::token(&made.about).by(&made.about.user);
    let mut response = did.with((StatusCode::CREATED, Json(made)));
    // After a login the connection is a stranger's no longer.
    response.extensions_mut().insert(holder(&proved.owner));
    Ok(response)
}

/// The connection's holder from now on.
fn holder(owner: &Owner) -> Holder {
    let authority = match owner {
        Owner::User(_) => Authority::Directory,
        Owner::Login(login) => login.authority().unwrap_or_default(),
    };
    Holder::User(authority, owner.name().into())
}

fn keep(
    draft: &mut Draft,
    token: &Token,
    proved: &Proved,
    wanted: &LoginRequest,
) -> Result<String, Problem> {
    if !proved.proof.counts(draft) {
        return Err(unauthorized());
    }
    let before = draft.before();
    tokens::must_see(&wanted.scope, &proved.made_by, |cluster| {
        let roles = match (&proved.identity, &proved.owner) {
            (Some(identity), _) => before.roles(Named::from(&**identity), cluster),
            (None, owner) => {
                let groups = before.groups_of(owner.name());
                before.roles(Named::by_directory(owner.name(), groups), cluster)
            }
        };
        !roles.is_empty()
    })?;
    let most = limits::LOGIN_TOKEN.as_secs();
    let mut life = wanted.expires_in_seconds.unwrap_or(most).min(most);
    let MadeBy {
        ends,
        renewable_until,
        ..
    } = &proved.made_by;
    if let Some(end) = renewable_until.or(*ends) {
        let left = (end - draft.now()).whole_seconds();
        life = life.min(u64::try_from(left).unwrap_or_default());
    }
    let request = TokenRequest {
        user: None,
        expires_in_seconds: Some(life),
        scope: wanted.scope.clone(),
        description: wanted.description.clone(),
    };
    tokens::put(
        draft,
        token,
        proved.owner.clone(),
        &proved.made_by,
        &request,
    )
}

impl Logins {
    async fn prove(&self, caller: &Caller<'_>, snapshot: &Snapshot) -> Result<Proved, Problem> {
        if let Some(password) = caller.password() {
            return self.prove_password(caller, password, snapshot).await;
        }
        let asked = self.chain.authenticate(caller).await;
        let found = asked
            .map_err(|error| not_checked(&error))?
            .ok_or_else(unauthorized)?;
        let provenance = found.identity().provenance();
        match provenance.and_then(Provenance::token) {
            Some(id) => renew(id, &found, snapshot),
            None => Ok(from_elsewhere(&found)),
        }
    }

    /// A user of the directory's own comes first; other names may be a provider's.
    async fn prove_password(
        &self,
        caller: &Caller<'_>,
        password: &Password,
        snapshot: &Snapshot,
    ) -> Result<Proved, Problem> {
        let user = snapshot.get::<User>(password.user());
        let kept = user.and_then(|user| password_of(&user.object)).cloned();
        if kept.is_none() {
            // The password alone: a certificate on the same connection says nothing of whose name was typed (rule 21).
            let asked = self.chain.login(password.clone(), caller.client()).await;
            if let Some(found) = asked.map_err(|error| not_checked(&error))? {
                return Ok(from_elsewhere(&found));
            }
        }
        let checked = self
            .passwords
            .check(password, kept.clone(), caller.client())
            .await;
        checked.map_err(|error| match error {
            LoginError::Wrong => unauthorized(),
            LoginError::Locked(wait) => {
                let seconds = wait.as_secs().saturating_add(1);
                Problem::later(StatusCode::TOO_MANY_REQUESTS, error.to_string(), seconds)
            }
            _ => busy(),
        })?;
        let name = Name::new(password.user()).map_err(|_| unauthorized())?;
        let kept = kept.ok_or_else(unauthorized)?;
        Ok(Proved {
            owner: Owner::User(name.clone()),
            identity: None,
            made_by: MadeBy {
                renewable_until: Some(OffsetDateTime::now_utc() + limits::LOGIN),
                ..MadeBy::default()
            },
            proof: Proof::Password(name, kept),
        })
    }
}

/// One token for another. Only tokens of logins are renewed: the makers of others said when these end.
fn renew(id: &str, found: &Authenticated, snapshot: &Snapshot) -> Result<Proved, Problem> {
    let token = &snapshot
        .get::<AccessToken>(id)
        .ok_or_else(unauthorized)?
        .object;
    let until = token
        .renewable_until
        .filter(|until| *until > OffsetDateTime::now_utc() + Duration::from_secs(1));
    let until = until.ok_or_else(|| {
        Problem::forbidden("this token cannot be renewed (any more); log in again")
    })?;
    Ok(Proved {
        owner: token.owner.clone(),
        identity: Some(Box::new(found.identity().clone())),
        made_by: MadeBy {
            parent: Some(id.to_owned()),
            ends: None,
            renewable_until: Some(until),
            scope: token.scope.clone(),
        },
        proof: Proof::Credential(found.revocation().clone()),
    })
}

fn from_elsewhere(found: &Authenticated) -> Proved {
    // The directory's additions and removals apply when the token is used.
    let identity = found.claimed();
    let provenance = identity.provenance();
    Proved {
        owner: Owner::Login(Login {
            user: identity.user().to_owned(),
            uid: identity.uid().map(str::to_owned),
            groups: identity.groups().to_vec(),
            extra: identity.extra().clone(),
            authenticated_by: provenance.map(ToString::to_string).unwrap_or_default(),
        }),
        identity: Some(Box::new(found.identity().clone())),
        made_by: MadeBy::login(identity),
        proof: Proof::Credential(found.revocation().clone()),
    }
}

fn not_checked(error: &AuthenticateError) -> Problem {
    match error {
        AuthenticateError::Rejected(
            CredentialError::ForeignOrigin | CredentialError::Identity(_),
        ) => Problem::from(&Rejection::from(error)),
        AuthenticateError::Rejected(_) | AuthenticateError::Certificate { .. } => unauthorized(),
        AuthenticateError::Busy => busy(),
        AuthenticateError::Wait(wait) => {
            let seconds = wait.as_secs().saturating_add(1);
            Problem::later(StatusCode::TOO_MANY_REQUESTS, error.to_string(), seconds)
        }
        _ => Problem::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "who you are cannot be checked now",
            1,
        ),
    }
}

fn foreign_origin() -> Problem {
    Problem::from(&Rejection::ForeignOrigin)
}

fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "the credential, or the name or password, is wrong or missing",
    )
}

fn busy() -> Problem {
    Problem::later(
        StatusCode::TOO_MANY_REQUESTS,
        "too many credentials are being checked, or too many of yours were wrong",
        2,
    )
}
