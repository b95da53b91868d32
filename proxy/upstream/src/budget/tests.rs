//! Tables for what answers tell, and properties of the governor under any order of events.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    lines.iter().map(pair).collect()
}

#[test]
fn a_429_tells_its_limit_and_its_pause() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let hub = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}"#;
    let used_up = ("ratelimit-remaining", "0;w=21600");
    let of_100 = ("ratelimit-limit", "100;w=21600");
    let (quota, rate) = (Limit::PullQuota, Limit::RequestRate);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    type Case<'a> = (&'a [(&'static str, &'a str)], &'a [u8], Limit, Option<Duration>);
    let cases: [Case<'_>; 18] = [
        (&[], b"", rate, None),
        (&[], hub, quota, None),
        (&[("retry-after", "60")], b"", rate, seconds(60)),
        (&[("retry-after", " 60 ")], hub, quota, seconds(60)),
        (&[("retry-after", "0")], b"", rate, None),
        (&[("retry-after", "-5")], b"", rate, None),
        (&[("retry-after", "soon")], b"", rate, None),
        (&[("retry-after", "99999999999999999999")], b"", rate, None),
        (&[("retry-after", "999999999")], b"", rate, Some(PAUSE_MAX)),
        (&[("retry-after", "Fri, 15 Jan 2027 08:01:00 GMT")], b"", rate, seconds(60)),
        (&[("retry-after", "Fri, 15 Jan 2027 07:00:00 GMT")], b"", rate, None),
        (&[("retry-after", "1800000090")], b"", rate, seconds(90)),
        (&[("x-retry-after", "1800000090")], b"", rate, seconds(90)),
        (&[of_100, used_up], b"", quota, None),
        (&[of_100, used_up, ("ratelimit-reset", "300")], b"", quota, seconds(300)),
        (
            &[("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800000600")],
            b"",
            quota,
            seconds(600),
        ),
        (&[of_100, ("ratelimit-remaining", "40;w=21600"), ("ratelimit-reset", "300")], b"", rate, None),
        (&[of_100, used_up, ("ratelimit-reset", "300"), ("retry-after", "7")], b"", quota, seconds(7)),
    ];
    for (lines, body, limit, pause) in cases {
        assert_eq!(TooMany::read(&headers(lines), body, now), TooMany { limit, pause }, "{lines:?}");
    }
}

#[test]
fn quotas_and_sources_are_read() {
    for (lines, expected) in [
        (
            &[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")][..],
            Some((100, 76, Some(21_600))),
        ),
        (&[("ratelimit-limit", "200"), ("ratelimit-remaining", "0")], Some((200, 0, None))),
        (&[("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "59")], Some((60, 59, None))),
        (&[("ratelimit-limit", "100;w=21600")], None),
        (&[("ratelimit-limit", "many"), ("ratelimit-remaining", "1")], None),
        (&[], None),
    ] {
        let read = Quota::read(&headers(lines)).map(|quota| (quota.limit, quota.remaining, quota.window_s));
        assert_eq!(read, expected, "{lines:?}");
    }
    let of = |value: &str| source(&headers(&[("docker-ratelimit-source", value)]));
    assert_eq!((of("192.0.2.7").as_deref(), of(" "), source(&HeaderMap::new())), (Some("192.0.2.7"), None, None));
    assert_eq!(of(&"x".repeat(500)).map(|source| source.len()), Some(SOURCE_MAX_BYTES));
}

fn ask(governor: &mut Governor, now: Instant) -> Option<Ticket> {
    match governor.permit(now) {
        Permit::Ask(ticket) => Some(ticket),
        Permit::Wait(_) => None,
    }
}

const BARE: TooMany = TooMany { limit: Limit::RequestRate, pause: None };

#[test]
fn nothing_is_asked_before_the_time_that_upstream_told() {
    let (mut governor, start) = (Governor::default(), Instant::now());
    let told = TooMany { limit: Limit::PullQuota, pause: Some(60 * SECOND) };
    let tickets: Vec<_> = (0..3).filter_map(|_| ask(&mut governor, start)).collect();
    let paused = governor.refused(tickets[0], told, None, start, 0.5).expect("a pause");
    assert_eq!((paused.limit, paused.until, paused.is_first), (Limit::PullQuota, start + 60 * SECOND, true));
    assert_eq!(governor.refused(tickets[1], told, None, start, 0.5), None, "one event for one pause");
    governor.answered(tickets[2], None, start + SECOND);
    for after in [0, 1, 30, 59] {
        assert_eq!(ask(&mut governor, start + after * SECOND), None, "after {after} s");
    }
    let probe = ask(&mut governor, start + 60 * SECOND).expect("the pause is over");
    assert_eq!(ask(&mut governor, start + 60 * SECOND), None, "one probe, not everybody at once");
    governor.answered(probe, None, start + 61 * SECOND);
    assert!(ask(&mut governor, start + 61 * SECOND).is_some() && ask(&mut governor, start + 61 * SECOND).is_some());
}

#[test]
fn pauses_that_nobody_told_grow_and_an_answer_ends_that() {
    for (limit, (first, most)) in [(Limit::RequestRate, RATE_PAUSE), (Limit::PullQuota, QUOTA_PAUSE)] {
        let (mut governor, mut now) = (Governor::default(), Instant::now());
        let mut last = Duration::ZERO;
        for round in 0..40 {
            let ticket = ask(&mut governor, now).expect("the pause is over");
            let paused = governor.refused(ticket, TooMany { limit, pause: None }, None, now, 0.0).expect("a pause");
            let pause = paused.until - now;
            assert!(pause == (last * 2).clamp(first, most) && paused.is_first == (round == 0), "{round}: {pause:?}");
            (last, now) = (pause, paused.until);
        }
        let ticket = ask(&mut governor, now).expect("the pause is over");
        governor.answered(ticket, None, now);
        let ticket = ask(&mut governor, now).expect("open");
        let paused = governor.refused(ticket, TooMany { limit, pause: None }, None, now, 1.0).expect("a pause");
        assert_eq!(paused.until - now, first + first / 2, "the dice makes it up to a half longer");
    }
}

#[test]
fn a_probe_that_is_lost_lets_another_one_follow() {
    let (mut governor, now) = (Governor::default(), Instant::now());
    let ticket = ask(&mut governor, now).expect("open");
    let until = governor.refused(ticket, BARE, None, now, 0.0).expect("a pause").until;
    let probe = ask(&mut governor, until).expect("a probe");
    governor.failed(probe);
    assert!(ask(&mut governor, until).is_some(), "upstream could not be asked");
    assert!(ask(&mut governor, until + PROBE_PATIENCE / 2).is_none());
    assert!(ask(&mut governor, until + PROBE_PATIENCE).is_some(), "nothing was heard of it");
}

#[test]
fn checks_stop_when_little_is_left_and_the_report_is_young() {
    let quota = |limit, remaining, window_s| Quota { limit, remaining, window_s };
    let cases = [
        (quota(100, 6, Some(21_600)), 0, false),
        (quota(100, 5, Some(21_600)), 0, true),
        (quota(100, 0, Some(21_600)), 0, true),
        (quota(200, 10, Some(21_600)), 599, true),
        (quota(200, 10, Some(21_600)), 600, false),
        (quota(200, 10, Some(60)), 60, false),
        (quota(10, 2, None), 0, false),
        (quota(10, 1, None), 0, true),
        (quota(1, 1, None), 0, true),
        (quota(0, 0, None), 0, true),
        (quota(u64::MAX, u64::MAX, None), 0, false),
    ];
    for (report, age_s, stops) in cases {
        let (mut governor, now) = (Governor::default(), Instant::now());
        let ticket = ask(&mut governor, now).expect("open");
        governor.answered(ticket, Some(report), now);
        assert_eq!(governor.low_quota(now + age_s * SECOND).is_some(), stops, "{report:?} after {age_s} s");
    }
}

proptest! {
    /// Whatever comes in whatever order: never a question before a time that was told, at most one probe at a time, and
    /// an answer to the probe opens again.
    #[test]
    fn no_order_of_events_breaks_a_pause(steps in prop::collection::vec((0_u8..6, 0_u64..50, any::<prop::sample::Index>(), 0.0_f64..1.0), 1..80)) {
        let (mut governor, mut now) = (Governor::default(), Instant::now());
        let mut open: Vec<Ticket> = Vec::new();
        let mut not_before = now;
        for (kind, number, index, dice) in steps {
            match kind {
                0 => now += Duration::from_secs(number),
                1 | 2 => if let Some(ticket) = ask(&mut governor, now) {
                    prop_assert!(now >= not_before, "asked {:?} too early", not_before - now);
                    open.push(ticket);
                },
                _ if open.is_empty() => {}
                3 => {
                    let pause = (number > 0).then_some(Duration::from_secs(number));
                    let ticket = open.swap_remove(index.index(open.len()));
                    let limit = if number % 2 == 0 { Limit::PullQuota } else { Limit::RequestRate };
                    governor.refused(ticket, TooMany { limit, pause }, None, now, dice);
                    not_before = not_before.max(now + pause.unwrap_or_default());
                    prop_assert!(governor.permit(now) != Permit::Ask(ticket) && governor.pause(now).is_some());
                }
                4 => {
                    let ticket = open.swap_remove(index.index(open.len()));
                    let was_over = governor.pause.is_none_or(|pause| pause.until <= now);
                    governor.answered(ticket, None, now);
                    prop_assert!(was_over || governor.pause(now).is_some(), "an answer from before ends no pause");
                }
                _ => governor.failed(open.swap_remove(index.index(open.len()))),
            }
            // A pause is told until when it holds, and never longer than its limit allows.
            if let Some(paused) = governor.pause(now) {
                prop_assert!(paused.until <= now + QUOTA_PAUSE.1 * 3 / 2);
            }
        }
    }
}
