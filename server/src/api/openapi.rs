//! `/v1/openapi.json`: the API's description, for programs.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{
    ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Schema,
};

use underpass_api::{
    AccessGiven, AccessRequest, AgentMade, AgentRequest, AgentView, JOIN, JoinAnswer, JoinRequest,
    JoinTokenMade, JoinTokenRequest, JoinTokenView, KeyRotated, LoginRequest, LoginWays, Myself,
    NewPassword, NodeList, OperationList, OperationRecord, OperationRequest, OutputPage, Problem,
    Reachability, RecordingList, RegistrationStatus, SERVER, SESSIONS, ServerInfo, SessionMade,
    SessionRequest, ShellList, ShellRequest, ShellView, TokenMade, TokenRequest, TokenView,
};

use super::resource::Resource;
use super::{bindings, clusters, groups, users};

pub(super) async fn serve() -> Response {
    match describe().to_json() {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        // A description that cannot be written is a mistake of ours that its test finds.
        Err(_) => http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// One method of one path.
pub(super) struct Described {
    pub(super) method: HttpMethod,
    pub(super) path: String,
    about: &'static str,
    /// Query parameters beside those of pages.
    filters: &'static [&'static str],
    is_list: bool,
    takes: Option<RefOr<Schema>>,
    gives: Option<(&'static str, RefOr<Schema>)>,
    gives_type: &'static str,
    may_conflict: bool,
}

/// The schemas that the description refers to.
#[derive(Default)]
struct Schemas(Vec<(String, RefOr<Schema>)>);

impl Schemas {
    fn of<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.0);
        let name = T::name().into_owned();
        self.0.push((name.clone(), T::schema()));
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn named(&mut self, name: &str, schema: impl Into<Schema>) -> RefOr<Schema> {
        self.0.push((name.to_owned(), RefOr::T(schema.into())));
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn list(&mut self, of: RefOr<Schema>, name: &str) -> RefOr<Schema> {
        let list = ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(of).build())
            .required("items")
            .property("next", text());
        self.named(name, list.build())
    }
}

fn text() -> Schema {
    typed(Type::String)
}

fn moment() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .build()
        .into()
}

fn typed(kind: Type) -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(kind))
        .build()
        .into()
}

/// Every method of every path.
#[cfg(test)]
pub(super) fn described() -> Vec<Described> {
    operations(&mut Schemas::default())
}

fn operations(schemas: &mut Schemas) -> Vec<Described> {
    let mut all = Vec::new();
    resource::<clusters::Clusters>(&mut all, schemas);
    let reachability = schemas.of::<Reachability>();
    let about = "Whether a direct cluster's API server answers and accepts the credential: it is asked now; administrators only";
    let path = "/v1/clusters/{name}/reachability";
    all.push(Described::read(path, about, reachability));
    let registration = schemas.of::<RegistrationStatus>();
    let about = "The credential that an agent has registered, never the token; administrators only";
    let path = "/v1/clusters/{name}/registration";
    all.push(Described::read(path, about, registration));
    let about = "Deletes the registered credential: open streams that use it end. An agent may register another one";
    all.push(Described::remove(path, about));
    resource::<users::Users>(&mut all, schemas);
    resource::<groups::Groups>(&mut all, schemas);
    resource::<bindings::Bindings>(&mut all, schemas);

    let agent = schemas.of::<AgentView>();
    let list = schemas.list(agent.clone(), "AgentList");
    let about = "Agents by their keys; administrators, of their clusters";
    let mut agents = Described::list("/v1/agents", about, list);
    agents.filters = &["cluster"];
    all.push(agents);
    let made = schemas.of::<AgentMade>();
    let wanted = schemas.of::<AgentRequest>();
    let about = "Makes an agent's key here: a static token, which is shown this once";
    all.push(Described::create("/v1/agents", about, wanted, made));
    let about = "An agent";
    all.push(Described::read("/v1/agents/{id}", about, agent));
    let about = "Has a connected agent rotate its key now; administrators, of their clusters. 409: it is not connected, or cannot";
    all.push(Described::ask(
        "/v1/agents/{id}/rotate",
        about,
        schemas.of::<KeyRotated>(),
    ));
    let about = "Revokes an agent: its key counts for nothing, and its sessions end";
    all.push(Described::remove("/v1/agents/{id}", about));
    joins(&mut all, schemas);
    nodes(&mut all, schemas);
    shells(&mut all, schemas);
    recordings(&mut all, schemas);

    let token = schemas.of::<TokenView>();
    let list = schemas.list(token.clone(), "TokenList");
    let about = "Tokens: one's own; administrators, all";
    let mut tokens = Described::list("/v1/tokens", about, list);
    tokens.filters = &["user"];
    all.push(tokens);
    let made = schemas.of::<TokenMade>();
    let wanted = schemas.of::<TokenRequest>();
    let about = "Makes a token, which is shown this once";
    all.push(Described::create("/v1/tokens", about, wanted, made));
    let about = "A token, never its secret";
    all.push(Described::read("/v1/tokens/{id}", about, token));
    let about = "Takes a token back: what was opened with it ends";
    all.push(Described::remove("/v1/tokens/{id}", about));

    let (wanted, given) = (schemas.of::<AccessRequest>(), schemas.of::<AccessGiven>());
    let about = "Lets a user in: user, groups, binding and token, all of it or nothing; administrators only";
    let mut access = Described::create("/v1/access", about, wanted, given);
    access.gives = access.gives.map(|(_, schema)| ("200", schema));
    all.push(access);
    let wanted = schemas.of::<LoginRequest>();
    let made = schemas.of::<TokenMade>();
    let about = "Logs in, with a name and password (Basic) or whatever an authenticator takes: gives a token";
    all.push(Described::create("/v1/login", about, wanted, made));
    let ways = schemas.of::<LoginWays>();
    let about = "How people may log in; anybody may ask";
    all.push(Described::read("/v1/login", about, ways));
    let password = schemas.of::<NewPassword>();
    let path = "/v1/users/{name}/password";
    let about = "Sets a password: one's own, or as an administrator; whoever logged in with the old one is logged out";
    let mut set = Described::create(path, about, password, text().into());
    (set.method, set.gives) = (HttpMethod::Put, None);
    all.push(set);
    all.push(Described::remove(
        path,
        "Takes the password away; administrators only",
    ));
    let myself = schemas.of::<Myself>();
    let about = "Who asks, and what they may";
    all.push(Described::read("/v1/self", about, myself));
    let server = schemas.of::<ServerInfo>();
    let about = "How users and agents reach the server: its URL and its CA";
    all.push(Described::read(SERVER, about, server));
    let (wanted, made) = (schemas.of::<SessionRequest>(), schemas.of::<SessionMade>());
    let about = "Registers the key of a session of one's own, or has it rest on another credential";
    all.push(Described::create(SESSIONS, about, wanted, made));
    all
}

/// Join tokens, and agents that join.
fn joins(all: &mut Vec<Described>, schemas: &mut Schemas) {
    let (many, one) = (
        "/v1/clusters/{name}/join-tokens",
        "/v1/clusters/{name}/join-tokens/{id}",
    );
    let token = schemas.of::<JoinTokenView>();
    let list = schemas.list(token.clone(), "JoinTokenList");
    let about = "Tokens with which agents register their own keys; administrators of the cluster";
    all.push(Described::list(many, about, list));
    let made = schemas.of::<JoinTokenMade>();
    let wanted = schemas.of::<JoinTokenRequest>();
    let about = "Makes a join token, which is shown this once";
    all.push(Described::create(many, about, wanted, made));
    let about = "A join token, never its secret";
    all.push(Described::read(one, about, token));
    let about =
        "Deletes a join token: no agent joins with it any more; those that have joined stay";
    all.push(Described::remove(one, about));
    let wanted = schemas.of::<JoinRequest>();
    let answer = schemas.of::<JoinAnswer>();
    let about = "Registers an agent's key with a join token, the bearer token of this request";
    all.push(Described::create(JOIN, about, wanted, answer));
}

/// Nodes, and operations on them.
fn nodes(all: &mut Vec<Described>, schemas: &mut Schemas) {
    let nodes = schemas.of::<NodeList>();
    let about = "Nodes whose agents are connected; needs the role operations on the cluster, as all that follows";
    all.push(Described::read("/v1/clusters/{name}/nodes", about, nodes));
    let (many, one) = (
        "/v1/clusters/{name}/nodes/{node}/operations",
        "/v1/clusters/{name}/nodes/{node}/operations/{id}",
    );
    let list = schemas.of::<OperationList>();
    let about = "The newest runs of operations on the node, a hundred or 1 MiB at the most";
    all.push(Described::read(many, about, list));
    let wanted = schemas.of::<OperationRequest>();
    let record = schemas.of::<OperationRecord>();
    let about =
        "Runs an operation that the policy of the node's agent names, at most once for each id";
    let mut run = Described::create(many, about, wanted, record.clone());
    run.gives = Some(("200", record.clone()));
    all.push(run);
    let about = "A run";
    all.push(Described::read(one, about, record));
    let about = "Cancels a run: its command is killed";
    all.push(Described::remove(one, about));
    let page = schemas.of::<OutputPage>();
    let path = "/v1/clusters/{name}/nodes/{node}/operations/{id}/output";
    let about = "Output of a run from a byte on, which waits for some seconds until there is some";
    let mut output = Described::read(path, about, page);
    output.filters = &["from", "wait"];
    all.push(output);
}

/// Shells at agents.
fn shells(all: &mut Vec<Described>, schemas: &mut Schemas) {
    let (wanted, list) = (schemas.of::<ShellRequest>(), schemas.of::<ShellList>());
    let view = schemas.of::<ShellView>();
    for (list_about, open_about, many, one) in [
        (
            "The caller's shells at the cluster's agent; needs the role shell on the cluster, as all that follows",
            "Opens a shell at the cluster's agent, as its policy allows; one of the kind node needs the role admin",
            "/v1/clusters/{name}/shells",
            "/v1/clusters/{name}/shells/{id}",
        ),
        (
            "The caller's shells at the node's agent",
            "Opens a shell at the node's agent",
            "/v1/clusters/{name}/nodes/{node}/shells",
            "/v1/clusters/{name}/nodes/{node}/shells/{id}",
        ),
    ] {
        all.push(Described::read(many, list_about, list.clone()));
        let opening = Described::create(many, open_about, wanted.clone(), view.clone());
        all.push(opening);
        let about = "A shell; with the header Upgrade: websocket, a viewer attaches to it";
        all.push(Described::read(one, about, view.clone()));
        let about = "Ends a shell, with all of its processes";
        all.push(Described::remove(one, about));
    }
}

/// Recordings of shells.
fn recordings(all: &mut Vec<Described>, schemas: &mut Schemas) {
    let (many, one) = (
        "/v1/clusters/{name}/recordings",
        "/v1/clusters/{name}/recordings/{id}",
    );
    let list = schemas.of::<RecordingList>();
    let about = "Recordings of shells in pages, those that began last first: administrators of the cluster, all; others, with the role shell, those of their own shells. The next page is the one after the answer's next";
    let mut pages = Described::read(many, about, list);
    pages.filters = &["limit", "after"];
    all.push(pages);
    let about = "A recording as asciicast v2, as far as it is written. The header Underpass-Recording-Sha256 has the hash of one that is finished";
    let mut recording = Described::read(one, about, text().into());
    recording.gives_type = "application/x-asciicast";
    all.push(recording);
    let about = "Removes a recording that is finished; administrators of the cluster";
    all.push(Described::remove(one, about));
}

fn resource<R: Resource>(all: &mut Vec<Described>, schemas: &mut Schemas) {
    use underpass_directory::Object;

    let (many, one) = (
        format!("/v1/{}", R::PATH),
        format!("/v1/{}/{{name}}", R::PATH),
    );
    let kind = R::Object::KIND.as_str();
    let title: String = kind
        .chars()
        .take(1)
        .flat_map(char::to_uppercase)
        .chain(kind.chars().skip(1))
        .collect();
    let (spec, status) = (schemas.of::<R::Spec>(), schemas.of::<R::Status>());
    let view = ObjectBuilder::new()
        .property("name", text())
        .property("revision", typed(Type::Integer))
        .property("created", moment())
        .property("spec", spec.clone())
        .property("status", status);
    let view = ["name", "revision", "created", "spec", "status"]
        .into_iter()
        .fold(view, ObjectBuilder::required);
    let view = schemas.named(&title, view.build());
    let new = ObjectBuilder::new()
        .property("name", text())
        .required("name")
        .property("spec", spec.clone())
        .required("spec");
    let new = schemas.named(&format!("New{title}"), new.build());
    let list = schemas.list(view.clone(), &format!("{title}List"));
    all.push(Described::list(&many, R::ABOUT, list));
    all.push(Described::create(&many, R::ABOUT, new, view.clone()));
    all.push(Described::read(&one, R::ABOUT, view.clone()));
    let about = "Replaces it; with If-None-Match: *, makes it";
    let mut put = Described::create(&one, about, spec, view.clone());
    put.method = HttpMethod::Put;
    put.gives = Some(("200", view.clone()));
    all.push(put);
    let about = "Changes parts of the spec: a JSON merge patch (RFC 7396)";
    let mut patch = Described::create(&one, about, typed(Type::Object).into(), view.clone());
    patch.method = HttpMethod::Patch;
    patch.gives = Some(("200", view));
    all.push(patch);
    all.push(Described::remove(
        &one,
        "Removes it, and what cannot be without it",
    ));
}

impl Described {
    fn read(path: &str, about: &'static str, gives: RefOr<Schema>) -> Self {
        Self {
            method: HttpMethod::Get,
            path: path.to_owned(),
            about,
            filters: &[],
            is_list: false,
            takes: None,
            gives: Some(("200", gives)),
            gives_type: "application/json",
            may_conflict: false,
        }
    }

    fn list(path: &str, about: &'static str, gives: RefOr<Schema>) -> Self {
        Self {
            is_list: true,
            ..Self::read(path, about, gives)
        }
    }

    fn create(path: &str, about: &'static str, takes: RefOr<Schema>, gives: RefOr<Schema>) -> Self {
        Self {
            method: HttpMethod::Post,
            takes: Some(takes),
            gives: Some(("201", gives)),
            may_conflict: true,
            ..Self::read(path, about, text().into())
        }
    }

    /// It takes nothing, and has something done.
    fn ask(path: &str, about: &'static str, gives: RefOr<Schema>) -> Self {
        Self {
            method: HttpMethod::Post,
            may_conflict: true,
            ..Self::read(path, about, gives)
        }
    }

    fn remove(path: &str, about: &'static str) -> Self {
        Self {
            method: HttpMethod::Delete,
            gives: None,
            may_conflict: true,
            ..Self::read(path, about, text().into())
        }
    }

    fn operation(&self) -> Operation {
        let mut operation = OperationBuilder::new().summary(Some(self.about));
        let variables = self.path.split('{').skip(1);
        for (name, _) in variables.filter_map(|rest| rest.split_once('}')) {
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(text())),
            );
        }
        let query = |name: &str, schema| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .schema(Some(schema))
        };
        for filter in self.filters {
            operation = operation.parameter(query(filter, text()));
        }
        if self.is_list {
            operation = operation
                .parameter(query("after", text()))
                .parameter(query("limit", typed(Type::Integer)));
        }
        if let Some(takes) = &self.takes {
            let body = ContentBuilder::new().schema(Some(takes.clone())).build();
            let body = RequestBodyBuilder::new()
                .content("application/json", body)
                .required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        operation = match &self.gives {
            Some((code, schema)) => {
                let content = ContentBuilder::new().schema(Some(schema.clone())).build();
                let response = ResponseBuilder::new()
                    .description("Done")
                    .content(self.gives_type, content);
                operation.response(*code, response.build())
            }
            None => operation.response("204", ResponseBuilder::new().description("Done").build()),
        };
        let problem = |description: &str| {
            let schema = Ref::from_schema_name(Problem::name());
            let content = ContentBuilder::new().schema(Some(schema)).build();
            ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", content)
                .build()
        };
        operation = operation
            .response(
                "401",
                problem("No credential, or one that counts for nothing"),
            )
            .response("403", problem("Not allowed"));
        if self.path.contains('{') {
            operation = operation.response("404", problem("There is none"));
        }
        if self.may_conflict {
            operation = operation
                .response("409", problem("There is one already"))
                .response("412", problem("It was changed meanwhile"))
                .response("422", problem("It cannot be so"));
        }
        operation.build()
    }
}

/// The whole description.
pub(super) fn describe() -> OpenApi {
    let mut schemas = Schemas::default();
    let operations = operations(&mut schemas);
    schemas.of::<Problem>();
    let mut paths = PathsBuilder::new().build();
    for operation in &operations {
        paths.add_path_operation(
            &operation.path,
            vec![operation.method.clone()],
            operation.operation(),
        );
    }
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let mut info = Info::new("Underpass", "v1");
    info.description = Some(
        "The directory of an Underpass server: clusters, agents, users, groups, tokens, bindings."
            .to_owned(),
    );
    let mut components = ComponentsBuilder::new().security_scheme("bearer", bearer);
    for (name, schema) in schemas.0 {
        components = components.schema(name, schema);
    }
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new(
            "bearer",
            Vec::<String>::new(),
        )]))
        .build()
}
