//! From starting the process to the first hit that is whole, with a million entries in the index: after SIGTERM, and
//! after kill -9 in the middle of work. Without a generator of the index the same is measured on a small one, to know.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::BoxError;
use crate::client::Target;
use crate::content::Blob;
use crate::figures::Samples;
use crate::lab::{Lab, MIB, blob_path, manifest_path, warm};
use crate::report::Measured;
use crate::seed::{ENTRIES, fill_index};
use crate::servers::{UNBOUNDED, data_directory, spawn_entrepot};

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(1);

pub(super) async fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let mut measured = Measured::default();
    let folder = lab.folder("entrepot")?;
    let seeded = seed(lab, &folder).await;
    let image = lab.image(8, MIB, "start");
    let path = manifest_path(&image.manifest.digest);
    let server = lab.entrepot(&folder).await?;
    warm(&server.tls, &path, &image.manifest).await?;
    let target = server.tls.clone();
    server.process.terminate().await?;

    let [mut clean, mut killed]: [Samples; 2] = Default::default();
    let mut work = lab.blob(MIB);
    for _ in 0..lab.options.rounds {
        let started = Instant::now();
        let process = spawn_entrepot(&lab.binary, &folder, &lab.authority, UNBOUNDED)?;
        first_hit(&target, &path, &image.manifest).await?;
        clean.push(started.elapsed().as_secs_f64() * 1e3);
        // Something is stored and noted just before the kill.
        target.pull_checked(&blob_path(&work), &work).await?;
        work = lab.blob(MIB);
        target.pull_checked(&blob_path(&work), &work).await?;
        process.kill()?;

        let started = Instant::now();
        let process = spawn_entrepot(&lab.binary, &folder, &lab.authority, UNBOUNDED)?;
        first_hit(&target, &path, &image.manifest).await?;
        killed.push(started.elapsed().as_secs_f64() * 1e3);
        process.terminate().await?;
    }
    match seeded {
        Ok(()) => {
            measured.goal("start-clean", &clean);
            measured.goal("start-killed", &killed);
        }
        Err(error) => {
            measured.missing("start-clean", &error.to_string());
            measured.missing("start-killed", &error.to_string());
            measured.reading("start to first hit, small index, clean", "ms", &clean);
            measured.reading("start to first hit, small index, after kill -9", "ms", &killed);
        }
    }
    Ok(measured)
}

/// A data directory with a million entries in its index.
pub(super) async fn seed(lab: &Lab, folder: &Path) -> Result<(), BoxError> {
    fill_index(&data_directory(folder), lab.either(ENTRIES, ENTRIES / 10)).await
}

/// Asks until there is an answer, which has to be a hit.
pub(super) async fn first_hit(target: &Target, path: &str, manifest: &Blob) -> Result<(), BoxError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match target.pull_checked(path, manifest).await {
            Ok(head) => return head.expect_hit(),
            Err(error) if Instant::now() > deadline => return Err(format!("no first hit: {error}").into()),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
