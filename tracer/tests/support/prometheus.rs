//! A real Prometheus, with its own configuration and data.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{daemon::body, live::wait_until};

fn is_ready(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

pub struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    pub fn start(folder: &Path, target: u16) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
             - job_name: faultline\n  static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus is needed (cargo xtask test installs it)");
        let prometheus = Self { child, port };
        // It listens before it can answer.
        wait_until("Prometheus is ready", || is_ready(port).is_ok_and(|ready| ready));
        prometheus
    }

    /// The value of a PromQL expression that yields a single one.
    pub fn query(&self, expression: &str) -> Option<f64> {
        let result = self.samples(expression);
        assert!(result.len() <= 1, "{expression} gives several: {result:?}");
        result.first()?["value"][1].as_str()?.parse().ok()
    }

    /// Everything that a PromQL expression yields.
    pub fn samples(&self, expression: &str) -> Vec<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let form: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let form = format!("query={form}");
        write!(
            stream,
            "POST /api/v1/query HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )
        .unwrap();
        let answer: Value = serde_json::from_str(&body(stream)).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_for(&self, expression: &str, wanted: f64) {
        let mut last = None;
        let started = std::time::Instant::now();
        while last.is_none_or(|last: f64| last.to_bits() != wanted.to_bits()) {
            assert!(
                started.elapsed() < super::HUNG_AFTER,
                "{expression} is {last:?}, never {wanted}"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
            last = self.query(expression);
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
