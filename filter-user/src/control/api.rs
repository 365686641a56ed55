// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface: each endpoint with who may use it, what it takes and what it gives. The server's routes,
//! the client's requests and the OpenAPI document all come from this one list.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::protocol::{
    AllowRequest, AllowStatus, Applied, ApplyRequest, Confirmed, Drop, ErrorReply, Explanation,
    Files, FlowFilter, FlowList, FlowQuestion, FlushRequest, Flushed, Killed, PolicyRecord,
    Preview, Question, ReloadRequest, Reloaded, Request, ResolveRequest, Resolved, Revoked,
    RollbackRequest, RuleStatus, Status, Usage,
};
use crate::names::Report;

/// The media type of OpenMetrics (its specification, version 1.0, section "Content type").
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of lines of JSON.
pub const JSON_LINES: &str = "application/x-ndjson";
/// The media type of JSON.
pub const JSON: &str = "application/json";

/// How an endpoint is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// It tells.
    Get,
    /// It takes a question or a wish.
    Post,
    /// It takes something away.
    Delete,
}

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever may open the socket.
    Read,
    /// Root.
    Write,
}

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub enum Answers {
    /// One value.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// A value in each line, until the client goes.
    Lines(fn(&mut SchemaGenerator) -> Schema),
    /// Text for a collector of metrics.
    OpenMetrics,
    /// This document.
    Document,
}

/// One way to use the interface.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// How.
    pub method: Method,
    /// Where; `{id}` stands for a number.
    pub path: &'static str,
    /// By whom.
    pub access: Access,
    /// What for.
    pub summary: &'static str,
    /// The longest body in bytes.
    pub limit: usize,
    takes: Option<fn(&mut SchemaGenerator) -> Schema>,
    parse: fn(Option<u64>, &[u8]) -> Result<Request, Invalid>,
    /// What comes back.
    pub answers: Answers,
}

/// Why something is no request.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The body isn't what the endpoint takes.
    #[error("the body is not what this takes: {0}; GET /v1/openapi.json describes it")]
    Body(#[from] serde_json::Error),
    /// The path has no number where one belongs.
    #[error("the path wants a number; GET /v1/allows lists them")]
    Number,
}

/// A request as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How.
    pub method: Method,
    /// Where.
    pub path: String,
    /// The body, in JSON.
    pub body: Option<String>,
}

/// Enough for a question.
const SHORT: usize = 64 << 10;
/// Enough for a policy of some million prefixes.
const LONG: usize = 256 << 20;

type Parse = fn(Option<u64>, &[u8]) -> Result<Request, Invalid>;

/// All of them.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    use Access::{Read, Write};
    vec![
        get("/v1/status", "One screen about everything", |_, _| Ok(Request::Status))
            .giving::<Status>(),
        get("/v1/rules", "The rules, and what each let through", |_, _| Ok(Request::Rules))
            .giving::<Vec<RuleStatus>>(),
        get("/v1/names", "The names of the policy, and their addresses", |_, _| Ok(Request::Names))
            .giving::<Report>(),
        post(Write, "/v1/names/flush", "Forget addresses of names", |_, body| {
            Ok(Request::Flush(parse(body)?))
        })
        .taking::<FlushRequest>()
        .giving::<Flushed>(),
        // It sends questions upstream, by which somebody who may only read could tell secrets.
        post(
            Write,
            "/v1/names/resolve",
            "Look a name up, to see what would be learned",
            |_, body| Ok(Request::Resolve(parse(body)?)),
        )
        .taking::<ResolveRequest>()
        .giving::<Resolved>(),
        get("/v1/drops", "Follow dropped packets (a sample)", |_, _| Ok(Request::Drops))
            .answering(Answers::Lines(schema::<Drop>)),
        post(Read, "/v1/explain", "What would happen to a packet, and why", |_, body| {
            Ok(Request::Explain(parse(body)?))
        })
        .taking::<Question>()
        .giving::<Explanation>(),
        post(Read, "/v1/flows/query", "The flows that go through the gateway", |_, body| {
            Ok(Request::Flows(parse(body)?))
        })
        .taking::<FlowQuestion>()
        .giving::<FlowList>(),
        post(Write, "/v1/flows/kill", "Cut flows", |_, body| Ok(Request::Kill(parse(body)?)))
            .taking::<FlowFilter>()
            .giving::<Killed>(),
        post(Write, "/v1/reload", "Read the configuration again", |_, body| {
            Ok(Request::Reload(parse(body)?))
        })
        .taking::<ReloadRequest>()
        .giving::<Reloaded>(),
        get("/v1/allows", "What is allowed beside the policy", |_, _| Ok(Request::Allows))
            .giving::<Vec<AllowStatus>>(),
        post(Write, "/v1/allows", "Allow something beside the policy", |_, body| {
            Ok(Request::Allow(parse(body)?))
        })
        .taking::<AllowRequest>()
        .giving::<AllowStatus>(),
        Endpoint {
            method: Method::Delete,
            ..post(Write, "/v1/allows/{id}", "Take back what was allowed so", |id, _| {
                Ok(Request::Revoke(id.ok_or(Invalid::Number)?))
            })
        }
        .giving::<Revoked>(),
        post(Write, "/v1/policy/preview", "What another policy would change", |_, body| {
            Ok(Request::Preview(parse(body)?))
        })
        .taking::<Files>()
        .giving::<Preview>()
        .up_to(LONG),
        post(Write, "/v1/policy/apply", "Put another policy in force, to be confirmed or not", {
            |_, body| Ok(Request::Apply(parse(body)?))
        })
        .taking::<ApplyRequest>()
        .giving::<Applied>()
        .up_to(LONG),
        post(Write, "/v1/policy/confirm", "Keep the policy that waits to be confirmed", |_, _| {
            Ok(Request::Confirm)
        })
        .giving::<Confirmed>(),
        post(Write, "/v1/policy/rollback", "Go back to an earlier policy", |_, body| {
            Ok(Request::Rollback(parse(body)?))
        })
        .taking::<RollbackRequest>()
        .giving::<Applied>(),
        get("/v1/policy/history", "The policies that can be gone back to, newest first", |_, _| {
            Ok(Request::Policies)
        })
        .giving::<Vec<PolicyRecord>>(),
        get("/v1/usage", "When rules and names were last used", |_, _| Ok(Request::Usage))
            .giving::<Usage>(),
        get("/v1/openapi.json", "This document", |_, _| Ok(Request::Description))
            .answering(Answers::Document),
        get("/metrics", "Everything that is counted", |_, _| Ok(Request::Metrics))
            .answering(Answers::OpenMetrics),
    ]
}

/// How a request is sent.
///
/// # Errors
///
/// It can't be written as JSON.
pub fn send(request: &Request) -> serde_json::Result<Sent> {
    let get = |path: &str| Sent { method: Method::Get, path: path.to_owned(), body: None };
    let post = |path: &str, body: serde_json::Result<String>| -> serde_json::Result<Sent> {
        Ok(Sent { method: Method::Post, path: path.to_owned(), body: Some(body?) })
    };
    Ok(match request {
        Request::Status => get("/v1/status"),
        Request::Rules => get("/v1/rules"),
        Request::Names => get("/v1/names"),
        Request::Flush(flush) => post("/v1/names/flush", text(flush))?,
        Request::Resolve(resolve) => post("/v1/names/resolve", text(resolve))?,
        Request::Drops => get("/v1/drops"),
        Request::Explain(question) => post("/v1/explain", text(question))?,
        Request::Flows(question) => post("/v1/flows/query", text(question))?,
        Request::Kill(filter) => post("/v1/flows/kill", text(filter))?,
        Request::Reload(reload) => post("/v1/reload", text(reload))?,
        Request::Allows => get("/v1/allows"),
        Request::Allow(allow) => post("/v1/allows", text(allow))?,
        Request::Revoke(id) => {
            Sent { method: Method::Delete, path: format!("/v1/allows/{id}"), body: None }
        }
        Request::Preview(files) => post("/v1/policy/preview", text(files))?,
        Request::Apply(apply) => post("/v1/policy/apply", text(apply))?,
        Request::Confirm => post("/v1/policy/confirm", Ok(String::new()))?,
        Request::Rollback(rollback) => post("/v1/policy/rollback", text(rollback))?,
        Request::Policies => get("/v1/policy/history"),
        Request::Usage => get("/v1/usage"),
        Request::Description => get("/v1/openapi.json"),
        Request::Metrics => get("/metrics"),
    })
}

/// The OpenAPI document (version 3.1).
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<ErrorReply>();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints() {
        let (media, answer) = match endpoint.answers {
            Answers::Json(schema) => (JSON, schema(&mut generator).to_value()),
            Answers::Lines(schema) => (JSON_LINES, schema(&mut generator).to_value()),
            Answers::OpenMetrics => (OPEN_METRICS, json!({"type": "string"})),
            Answers::Document => (JSON, json!({"type": "object"})),
        };
        let refused = |why: &str| json!({"description": why, "content": {JSON: {"schema": error}}});
        let mut operation = Map::new();
        let mut describe = |key: &str, value: Value| operation.insert(key.to_owned(), value);
        describe("summary", endpoint.summary.into());
        let by = match endpoint.access {
            Access::Read => "For whoever may open the socket.",
            Access::Write => "For root.",
        };
        describe("description", by.into());
        describe(
            "responses",
            json!({
                "200": {"description": "The answer", "content": {media: {"schema": answer}}},
                "400": refused("The request is not what this takes"),
                "403": refused("The caller may not do this"),
                "409": refused("It can't be done, and nothing was changed"),
                "503": refused("Too many clients, or the daemon is ending"),
            }),
        );
        if let Some(takes) = endpoint.takes {
            let schema = takes(&mut generator).to_value();
            let body = json!({"required": true, "content": {JSON: {"schema": schema}}});
            describe("requestBody", body);
        }
        if endpoint.path.contains("{id}") {
            let id = json!({
                "name": "id", "in": "path", "required": true,
                "schema": {"type": "integer", "minimum": 0},
            });
            describe("parameters", json!([id]));
        }
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(endpoint.method.name().to_ascii_lowercase(), operation.into());
        }
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP over the unix socket of `sluice run`. Paths begin with the version of \
                            the interface: fields may be added within a version, and stay what they are.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn get(path: &'static str, summary: &'static str, parse: Parse) -> Endpoint {
    Endpoint { method: Method::Get, ..post(Access::Read, path, summary, parse) }
}

fn post(access: Access, path: &'static str, summary: &'static str, parse: Parse) -> Endpoint {
    Endpoint {
        method: Method::Post,
        path,
        access,
        summary,
        limit: SHORT,
        takes: None,
        parse,
        answers: Answers::Document,
    }
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A body; none is one without any field.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    let body = if body.is_empty() { b"{}" } else { body };
    Ok(serde_json::from_slice(body)?)
}

fn text<T: Serialize>(body: &T) -> serde_json::Result<String> {
    serde_json::to_string(body)
}

// === impl Method ===

impl Method {
    /// As HTTP names it (RFC 9110, section 9.3).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Makes a request of a path's number and a body.
    ///
    /// # Errors
    ///
    /// They are not what the endpoint takes.
    pub fn parse(&self, id: Option<u64>, body: &[u8]) -> Result<Request, Invalid> {
        (self.parse)(id, body)
    }

    fn taking<T: JsonSchema>(self) -> Self {
        Self { takes: Some(schema::<T>), ..self }
    }

    fn giving<T: JsonSchema>(self) -> Self {
        self.answering(Answers::Json(schema::<T>))
    }

    fn answering(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    fn up_to(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{FlowDetail, ReloadRequest};

    /// One of each kind.
    fn requests() -> Vec<Request> {
        let files = Files {
            files: [("gateway.toml".to_owned(), "[gateway]\n".to_owned())].into(),
            from: "/tmp/x".to_owned(),
        };
        let question = r#"{"from":"10.0.0.2","to":"10.0.0.3","transport":{"tcp":443},"nic":null,
            "vlan":0,"fragment":"whole"}"#;
        vec![
            Request::Status,
            Request::Rules,
            Request::Names,
            Request::Flush(FlushRequest { pattern: Some("*.example.com".to_owned()) }),
            Request::Resolve(ResolveRequest { name: "www.example.com".to_owned() }),
            Request::Drops,
            Request::Explain(serde_json::from_str(question).unwrap()),
            Request::Flows(FlowQuestion { detail: FlowDetail::Count, ..FlowQuestion::default() }),
            Request::Kill(FlowFilter { port: Some(22), ..FlowFilter::default() }),
            Request::Reload(ReloadRequest::default()),
            Request::Allows,
            Request::Allow(AllowRequest { to: "192.0.2.1".to_owned(), ..AllowRequest::default() }),
            Request::Revoke(7),
            Request::Preview(files.clone()),
            Request::Apply(ApplyRequest {
                policy: files,
                confirm_within_s: Some(60),
                reload: ReloadRequest::default(),
            }),
            Request::Confirm,
            Request::Rollback(RollbackRequest::default()),
            Request::Policies,
            Request::Usage,
            Request::Description,
            Request::Metrics,
        ]
    }

    #[test]
    fn what_is_sent_is_what_is_understood() {
        let mut seen = std::collections::BTreeSet::new();
        for request in requests() {
            let sent = send(&request).unwrap();
            let (path, id) = match sent.path.strip_prefix("/v1/allows/") {
                Some(id) => ("/v1/allows/{id}", Some(id.parse().unwrap())),
                None => (sent.path.as_str(), None),
            };
            let endpoint = endpoints()
                .into_iter()
                .find(|endpoint| (endpoint.method, endpoint.path) == (sent.method, path))
                .unwrap_or_else(|| panic!("nothing serves {sent:?}"));
            let body = sent.body.unwrap_or_default();
            assert_eq!(endpoint.parse(id, body.as_bytes()).unwrap(), request);
            seen.insert((endpoint.method, endpoint.path));
        }
        assert_eq!(seen.len(), endpoints().len(), "an endpoint that no request is for");
    }

    /// `UPDATE_EXPECTED=1` writes it anew.
    #[test]
    fn the_page_is_the_document() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(
            page == text,
            "{} is of another version; UPDATE_EXPECTED=1 mends it",
            path.display()
        );
    }

    #[test]
    fn what_only_tells_may_be_read_and_the_rest_is_roots() {
        for endpoint in endpoints() {
            let tells = endpoint.method == Method::Get
                || ["/v1/explain", "/v1/flows/query"].contains(&endpoint.path);
            let access = if tells { Access::Read } else { Access::Write };
            assert_eq!(endpoint.access, access, "{}", endpoint.path);
        }
    }

    #[test]
    fn unknown_fields_and_other_nonsense_are_refused() {
        let endpoints = endpoints();
        let parse = |path: &str, body: &str| {
            let endpoint = endpoints.iter().find(|endpoint| endpoint.path == path).unwrap();
            endpoint.parse(None, body.as_bytes()).map_err(|error| error.to_string())
        };
        assert!(parse("/v1/reload", "").is_ok());
        for (path, body) in [
            ("/v1/reload", "{\"force\":true}"),
            ("/v1/names/resolve", ""),
            ("/v1/flows/kill", "{\"prot\":22}"),
            ("/v1/flows/kill", "[1, 2"),
            ("/v1/explain", "{\"from\":\"x\"}"),
            ("/v1/allows/{id}", ""),
        ] {
            let error = parse(path, body).unwrap_err();
            assert!(error.contains("/v1/"), "{path} {body}: {error}");
        }
    }
}
