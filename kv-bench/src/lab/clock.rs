//! Time: of the process on a CPU, and of a piece of work.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Time that this process has spent on a CPU, all its threads together.
#[must_use]
pub(crate) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Nanoseconds that one call of `work` takes: the mean over as many calls as fit into `length`, at least one.
pub(crate) fn ns_per_call(length: Duration, mut work: impl FnMut()) -> f64 {
    let (began, mut calls, mut next) = (Instant::now(), 0_u64, 1_u64);
    loop {
        for _ in 0..next {
            work();
        }
        calls += next;
        let elapsed = began.elapsed();
        if elapsed >= length {
            return elapsed.as_nanos() as f64 / calls as f64;
        }
        // The clock is read ever less often, and never later than half the time left would take.
        let per_call = elapsed.as_nanos() / u128::from(calls);
        let left = (length - elapsed).as_nanos() / 2 / per_call.max(1);
        next = u64::try_from(left).unwrap_or(u64::MAX).clamp(1, calls.saturating_mul(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_timed_at_least_once() {
        let mut calls = 0;
        let ns = ns_per_call(Duration::ZERO, || calls += 1);
        assert_eq!(calls, 1);
        assert!(ns > 0.0, "{ns}");
    }

    #[test]
    fn work_takes_time_on_a_cpu() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time() > before);
    }
}
