//! The watchdog: we send signs of life while our event loops answer. Without them the service manager restarts us.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::tell;

/// The signs of life within the time that the service manager waits.
const BEATS: u32 = 3;

/// Tells the service manager regularly that all loops answer. It never returns. `answer` asks the loops and waits for
/// them, so a loop that hangs stops the signs of life.
pub async fn watch<Answering>(answer: impl Fn() -> Answering)
where
    Answering: Future<Output = bool>,
{
    if let Some(limit) = sd_notify::watchdog_enabled() {
        beat(limit / BEATS, answer, || tell(|| sd_notify::notify(&[NotifyState::Watchdog]))).await;
    }
    std::future::pending().await
}

async fn beat<Answering, Telling>(every: Duration, answer: impl Fn() -> Answering, tell: impl Fn() -> Telling)
where
    Answering: Future<Output = bool>,
    Telling: Future<Output = ()>,
{
    // A period of zero would panic.
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if answer().await {
            tell().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_heard_only_while_the_loops_answer() {
        #[derive(Clone, Copy)]
        enum Loops {
            Answer,
            Hang,
            Gone,
        }
        for (loops, expected) in [(Loops::Answer, 10), (Loops::Hang, 0), (Loops::Gone, 0)] {
            let heard = Cell::new(0);
            let answer = || async move {
                match loops {
                    Loops::Answer => true,
                    Loops::Hang => std::future::pending().await,
                    Loops::Gone => false,
                }
            };
            let tell = || async { heard.set(heard.get() + 1) };
            let beating = beat(Duration::from_secs(10), answer, tell);
            assert!(timeout(Duration::from_secs(95), beating).await.is_err(), "it never ends");
            assert_eq!(heard.get(), expected);
        }
    }
}
