//! One real client: `skopeo copy` of a warm image of several layers, through nginx and through entrepot.

use std::process::Command;
use std::time::Instant;

use crate::BoxError;
use crate::lab::{Lab, MIB, blob_path, manifest_path, rows, warm};
use crate::report::Measured;
use crate::servers::{NGINX_NAME, NGINX_TLS_PORT, PROXY_PORT, Server};
use crate::upstream::{NAME, REPOSITORY, TLS_PORT};

const LAYERS: usize = 8;
const TAG: &str = "skopeo";

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let image = lab.image(LAYERS, lab.either(64 * MIB, 16 * MIB), TAG);
    let servers = lab.both().await?;
    for server in &servers {
        warm(&server.tls, &manifest_path(&image.manifest.digest), &image.manifest).await?;
        for part in &image.parts {
            warm(&server.tls, &blob_path(part), part).await?;
        }
    }
    let [mut seconds, mut cpu] = [rows(), rows()];
    for _ in 0..lab.options.rounds {
        for (column, server) in servers.iter().enumerate() {
            let before = server.cpu_seconds()?;
            seconds[column].push(copy(lab, server).await?);
            cpu[column].push(server.cpu_seconds()? - before);
        }
    }
    let mut measured = Measured::default();
    measured.reading("skopeo copy of a warm image, ratio", "×", &seconds[1].over(&seconds[0]));
    for (column, server) in servers.iter().enumerate() {
        measured.reading(&format!("skopeo copy, wall, {}", server.name), "s", &seconds[column]);
        measured.reading(&format!("skopeo copy, server CPU, {}", server.name), "s", &cpu[column]);
    }
    Ok(measured)
}

/// Seconds of one copy.
async fn copy(lab: &Lab, server: &Server) -> Result<f64, BoxError> {
    let folder = lab.folder("skopeo")?;
    let is_nginx = server.name == "nginx";
    let host = if is_nginx { format!("{NGINX_NAME}:{NGINX_TLS_PORT}") } else { format!("{NAME}:{TLS_PORT}") };
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--insecure-policy", &format!("docker://{host}/{REPOSITORY}:{TAG}")]);
    command.arg(format!("dir:{}", folder.join("image").display()));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &folder).env("TMPDIR", &folder);
    command.env("SSL_CERT_FILE", &server.ca);
    if !is_nginx {
        command.env("HTTPS_PROXY", format!("http://127.0.0.1:{PROXY_PORT}"));
    }
    let begin = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        return Err(format!("skopeo through {}: {}", server.name, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(begin.elapsed().as_secs_f64())
}
