// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: what it says of itself, who may use it, and what abuse does to it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use sluice_lab::{
    dns_server::DnsServer,
    gateway::{Gateway, answer},
    generator::Stream,
    listener::Listeners,
    probe::{self, Outcome},
    process::{Process, wait_until},
    topology::{Clients, RESOLVER, Topology},
};

use crate::support::{OPEN_UDP, address, ask, check_tcp, configuration, zone};

/// The clients that abuse the socket, at a time.
const CLIENTS: usize = 2000;

/// Status and body of a request that is sent as it stands.
fn raw(socket: &Path, request: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    // A server that has seen enough may close before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Asks, and gives the JSON of the answer.
#[track_caller]
fn get(socket: &Path, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = raw(socket, &request(method, path, body));
    assert_eq!(status, 200, "{method} {path}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// The daemon's resident memory in KiB (proc(5)).
fn resident(gateway: &Gateway<'_>) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", gateway.daemon_id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_document_describes_what_the_socket_says() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let socket = gateway.socket();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    let document = get(&socket, "GET", "/v1/openapi.json", "");
    assert_eq!(document["openapi"], "3.1.0");

    let policy = fs::read_to_string(gateway.configuration().join("policy.d/test.toml")).unwrap();
    let plain = fs::read_to_string(gateway.configuration().join("gateway.toml")).unwrap();
    let files =
        json!({"files": {"gateway.toml": plain, "policy.d/test.toml": policy}, "from": "/x"});
    let question = json!({"from": "10.20.0.2", "to": "104.46.162.96", "transport": {"tcp": 443},
        "nic": "lan0", "vlan": 0, "fragment": "whole"});
    let bodies: [(&str, &str, Value); 12] = [
        ("post", "/v1/names/flush", json!({"pattern": "nothing"})),
        ("post", "/v1/names/resolve", json!({"name": "login.example.com"})),
        ("post", "/v1/explain", question),
        ("post", "/v1/flows/query", json!({"filter": {"port": 443}, "detail": "list"})),
        ("post", "/v1/flows/kill", json!({"port": 4242})),
        ("post", "/v1/reload", json!({})),
        ("post", "/v1/allows", json!({"to": "8.8.8.8", "tcp": ["443"], "for_s": 600, "note": "n"})),
        ("delete", "/v1/allows/{id}", Value::Null),
        ("post", "/v1/policy/preview", files.clone()),
        ("post", "/v1/policy/apply", json!({"policy": files, "confirm_within_s": 60})),
        ("post", "/v1/policy/confirm", Value::Null),
        ("post", "/v1/policy/rollback", json!({})),
    ];
    let mut seen = 0;
    let check = |method: &str, path: &str, body: &str| {
        let operation = &document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let said = get(&socket, &method.to_ascii_uppercase(), &path.replace("{id}", "1"), body);
        let mut schema =
            operation["responses"]["200"]["content"]["application/json"]["schema"].clone();
        assert!(!schema.is_null(), "{path}: no schema");
        schema["components"] = document["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&said)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:?}\n{said:#}");
        // A schema that accepts anything describes nothing.
        assert!(!validator.is_valid(&json!(17)), "{method} {path} accepts any answer");
    };
    for (method, path, body) in &bodies {
        let operation = &document["paths"][*path][*method];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() {
            let mut schema =
                operation["requestBody"]["content"]["application/json"]["schema"].clone();
            schema["components"] = document["components"].clone();
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!(validator.is_valid(&body), "{path}: the body is not as described: {body}");
        }
        check(method, path, &body);
        seen += 1;
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|method| *method == "get") {
            seen += 1;
            match path.as_str() {
                "/v1/drops" | "/metrics" | "/v1/openapi.json" => {}
                path => check(method, path, ""),
            }
        }
    }
    let all: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|path| path.as_object().unwrap().len())
        .sum();
    assert_eq!(seen, all, "an endpoint was not looked at");
    let (status, metrics) = raw(&socket, &request("GET", "/metrics", ""));
    assert_eq!(status, 200);
    assert!(
        metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    for metric in [
        "sluice_packets_total{nic=\"lan0\",verdict=\"pass\"",
        "sluice_table_capacity{",
        "sluice_ready 1",
    ] {
        assert!(metrics.contains(metric), "{metric} is not in\n{metrics}");
    }
}

#[test]
fn readers_may_read_and_nobody_else_may_open() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let socket = gateway.socket();
    open_directories(&socket);
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert!([0o600, 0o660].contains(&mode()), "{:o}", mode());
    let binary = readable_binary(&gateway);
    let as_nobody = |arguments: &[&str]| {
        let mut command = nobody();
        command.arg(&binary).args(arguments).arg("--socket").arg(&socket);
        answer(&mut command).unwrap()
    };
    let refused = as_nobody(&["status"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("may not be opened by this user"), "{}", refused.stderr);

    // Somebody opens it for everybody: then everybody reads, and still only root changes anything.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in
        [&["status"][..], &["rules"], &["names"], &["metrics"], &["rollback", "--list"]]
    {
        let read = as_nobody(arguments);
        assert_eq!(read.code, Some(0), "{arguments:?}: {}", read.stderr);
    }
    let policy = gateway.configuration();
    open_directories(&policy.join("x"));
    let apply = ["apply", policy.to_str().unwrap(), "--yes"];
    for arguments in [
        &["reload"][..],
        &["allow", "8.8.8.8", "--tcp", "443"],
        &["revoke", "1"],
        &["confirm"],
        &["rollback"],
        &["resolve", "login.example.com"],
        &["names", "flush"],
        &["flows", "kill", "--all"],
        &apply,
    ] {
        let refused = as_nobody(arguments);
        assert_eq!(refused.code, Some(1), "{arguments:?}: {}", refused.stdout);
        assert!(refused.stderr.contains("only root may"), "{arguments:?}: {}", refused.stderr);
    }
    assert_eq!(ask(&gateway, &["status"])["generation"], 1);
    // It is noticed and said.
    wait_until("the permissions are told", Duration::from_secs(10), || {
        Ok(ask(&gateway, &["status"])["problems"].to_string().contains("everybody"))
    })
    .unwrap();
}

#[test]
fn what_is_no_request_is_refused() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let socket = gateway.socket();
    let long = "x".repeat(70_000);
    let path = format!("/{long}");
    for (name, bytes, statuses) in [
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400][..]),
        ("nothing there", request("GET", "/v2/status", ""), &[404]),
        ("another method", request("PUT", "/v1/status", ""), &[405]),
        ("no JSON", request("POST", "/v1/explain", "{"), &[400]),
        ("an unknown field", request("POST", "/v1/reload", "{\"force\":1}"), &[400]),
        ("no number", request("DELETE", "/v1/allows/x", ""), &[400]),
        ("a long body", request("POST", "/v1/reload", &long), &[413]),
        ("a long path", request("GET", &path, ""), &[0, 414, 431]),
        (
            "a body that is announced only",
            b"POST /v1/policy/apply HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{".to_vec(),
            &[400, 408, 413],
        ),
        (
            "two lengths",
            b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_vec(),
            &[400],
        ),
    ] {
        let begin = Instant::now();
        let (status, answer) = raw(&socket, &bytes);
        assert!(statuses.contains(&status), "{name}: {status} {answer}");
        assert!(begin.elapsed() < Duration::from_secs(14), "{name}");
        assert!(!answer.contains("panicked"), "{name}: {answer}");
    }
    assert_eq!(ask(&gateway, &["status"])["ready"], json!(true));
}

#[test]
fn abuse_is_bounded_and_changes_nothing() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let socket = gateway.socket();
    open_directories(&socket);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let [allowed, denied] = OPEN_UDP.map(address);
    probe::udp(&lab.client, allowed, 4).unwrap();
    let before = resident(&gateway);
    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], 500).unwrap();

    // All at once: some ask and don't read, some send half a request, some follow and don't read.
    let script = format!(
        "import socket, resource, sys, time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n\
         held = []\n\
         refused = 0\n\
         for number in range({CLIENTS}):\n\
         \x20   s = socket.socket(socket.AF_UNIX)\n\
         \x20   s.setblocking(False)\n\
         \x20   try:\n\
         \x20       s.connect(sys.argv[1])\n\
         \x20       s.send([b'GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' * 50, b'GET /v1', \
         b'GET /v1/drops HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'][number % 3])\n\
         \x20   except OSError:\n\
         \x20       refused += 1\n\
         \x20   held.append(s)\n\
         print('held', flush=True)\n\
         time.sleep(20)\n"
    );
    let mut command = nobody();
    command.args(["python3", "-c", &script]).arg(&socket).stdout(Stdio::piped());
    let abuse = Process::spawn(&mut command).unwrap();
    let end = Instant::now() + Duration::from_secs(16);
    let mut asked = 0;
    let mut most = 0;
    while Instant::now() < end {
        let begin = Instant::now();
        assert_eq!(ask(&gateway, &["status"])["ready"], json!(true));
        assert!(begin.elapsed() < Duration::from_secs(5), "root waits for {:?}", begin.elapsed());
        most = most.max(resident(&gateway));
        asked += 1;
    }
    assert!(asked > 5, "asked only {asked} times");
    drop(abuse);
    let report = stream.finish().unwrap();
    assert_eq!(report.denied.received, 0, "{report}");
    assert_eq!(report.allowed.missing, Vec::<u32>::new(), "{report}");
    assert!(most < before + 64 * 1024, "from {before} to {most} KiB");
    println!("{CLIENTS} clients: {before} KiB before, {most} KiB at most; {report}");

    // Somebody who follows drops and never reads loses the place to somebody who does.
    let mut lazy: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            setsockopt(&stream, sockopt::RcvBuf, &4096).unwrap();
            stream.write_all(b"GET /v1/drops HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], 1000).unwrap();
    wait_until("a place is free again", Duration::from_secs(60), || {
        let followed = gateway.command(&["drops", "--count", "1"])?;
        Ok(followed.code == Some(0))
    })
    .unwrap();
    stream.finish().unwrap();
    lazy.clear();
}

/// A command that is run by nobody, in no group.
fn nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command
}

/// Lets others reach a file.
fn open_directories(file: &Path) {
    for directory in file.ancestors().skip(1).filter(|path| path.starts_with(std::env::temp_dir()))
    {
        if directory != std::env::temp_dir() {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// The binary where nobody may run it: the build's directory may be anybody's.
fn readable_binary(gateway: &Gateway<'_>) -> std::path::PathBuf {
    let path = gateway.socket().with_file_name("sluice");
    fs::copy(gateway.binary(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
