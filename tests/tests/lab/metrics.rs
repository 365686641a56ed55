// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics as a real Prometheus sees them, and the alerts that are made of them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use sluice_lab::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway},
    listener::Listeners,
    netns::Namespace,
    probe::{self, Outcome},
    process::{Process, run, wait_until},
    topology::{Clients, RESOLVER, Topology},
    workdir::Workdir,
};

use crate::support::{GATEWAY, POLICY, check_tcp, zone};

/// Where Prometheus listens, within the client's namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";

const METRICS: &str = r#"
[metrics]
listen = ["10.20.0.1"]
"#;

const RULE: &str = r#"
[[rule]]
name = "collector"
to   = ["self"]
tcp  = [9469]
"#;

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/prometheus")
}

#[test]
fn alerts_are_sound_and_each_goes_off() {
    run(Command::new("promtool").args(["check", "rules", "alerts.yml"]).current_dir(dist()))
        .unwrap();
    run(Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(dist()))
        .unwrap();
    // Every metric that an alert is about is given out.
    let alerts = fs::read_to_string(dist().join("alerts.yml")).unwrap();
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let configuration = Configuration::new(GATEWAY).policy("test", POLICY);
    let mut gateway = Gateway::new(&lab, &configuration).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "52.96.10.7:443", Outcome::Silence);
    let metrics = gateway.text(&["metrics"]).unwrap();
    let mut checked = Command::new("promtool");
    let mut checked = checked.args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    checked.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    checked.wait().unwrap();
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names: Vec<&str> = words.filter(|word| word.starts_with("sluice_")).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(metrics.contains(name), "{name} is not among the metrics:\n{metrics}");
    }
}

#[test]
fn a_real_prometheus_scrapes_the_gateway() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let configuration = Configuration::new(format!("{GATEWAY}{METRICS}"))
        .policy("test", POLICY)
        .policy("collector", RULE);
    let mut gateway = Gateway::new(&lab, &configuration).unwrap();
    gateway.start().unwrap();
    let folder = Workdir::new("prometheus").unwrap();
    let file = folder.path().join("prometheus.yml");
    let text = "scrape_configs:\n- job_name: sluice\n  scrape_interval: 1s\n  static_configs:\n  \
                - targets: ['10.20.0.1:9469']\n";
    fs::write(&file, text).unwrap();
    run(Command::new("promtool").args(["check", "config"]).arg(&file)).unwrap();
    run(lab.client.command("ip").args(["link", "set", "lo", "up"])).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut command = lab.client.command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .arg("--storage.tsdb.retention.time=1h")
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let _prometheus = Process::spawn(&mut command).unwrap();
    wait_until("Prometheus sees the gateway", Duration::from_secs(60), || {
        Ok(query(&lab.client, "up{job=\"sluice\"}") == Some(1.0))
    })
    .unwrap_or_else(|error| {
        panic!("{error:#}: {}", fs::read_to_string(folder.path().join("log")).unwrap())
    });

    // What happens is seen there.
    let drops = "sum(sluice_packets_total{nic=\"lan0\",verdict=\"drop\",reason=\"not-listed\"})";
    let before = query(&lab.client, drops).unwrap_or(0.0);
    probe::send_udp(&lab.client, "52.96.10.7:443".parse().unwrap(), 100, 50).unwrap();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    wait_until("the drops are counted", Duration::from_secs(20), || {
        Ok(query(&lab.client, drops) == Some(before + 50.0))
    })
    .unwrap();
    for (what, at_least) in [
        ("sluice_rule_packets_total{rule=\"web\"}", 1.0),
        ("sluice_table_capacity{table=\"flows\"}", 1000.0),
        ("sluice_dns_upstream_latency_seconds_count", 1.0),
        ("sluice_names_with_addresses", 1.0),
        ("sluice_ready", 1.0),
    ] {
        let value = query(&lab.client, what);
        assert!(value.is_some_and(|value| value >= at_least), "{what}: {value:?}");
    }

    // There is nothing else to be had, and nothing to be changed.
    for (request, status) in
        [("GET /v1/status", "404"), ("POST /metrics", "405"), ("GET /metrics", "200")]
    {
        let answer = http(&lab.client, "10.20.0.1:9469", request).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    // A reload moves it.
    gateway
        .configure(&Configuration::new(GATEWAY).policy("test", POLICY).policy("collector", RULE))
        .unwrap();
    gateway.command(&["reload"]).unwrap().success().unwrap();
    assert!(http(&lab.client, "10.20.0.1:9469", "GET /metrics").is_none());
}

/// The value of a query with one sample.
fn query(namespace: &Namespace, what: &str) -> Option<f64> {
    let escaped: String = what
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02x}")
            }
        })
        .collect();
    let answer = http(namespace, PROMETHEUS, &format!("GET /api/v1/query?query={escaped}"))?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let value: Value = serde_json::from_str(&body[body.find('{')?..=body.rfind('}')?]).ok()?;
    value["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

/// The answer to a request without a body; nothing where nobody listens.
fn http(namespace: &Namespace, to: &str, request: &str) -> Option<String> {
    namespace
        .enter(|| {
            let to = to.parse().ok()?;
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
            write!(
                stream,
                "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
        .unwrap()
}
