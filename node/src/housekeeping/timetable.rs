//! When each job is due, by a clock that is handed in.

use std::time::Duration;

/// Jobs that come round, each in its own time.
pub(super) struct Timetable<J> {
    jobs: Vec<Round<J>>,
}

struct Round<J> {
    job: J,
    every: Duration,
    next: Duration,
}

impl<J: Copy> Timetable<J> {
    /// Jobs and their periods; the first turn of each is a period after `start`.
    pub(super) fn new(start: Duration, jobs: Vec<(J, Duration)>) -> Self {
        let round = |(job, every)| Round {
            job,
            every,
            next: start.saturating_add(every),
        };
        Self {
            jobs: jobs.into_iter().map(round).collect(),
        }
    }

    /// Time until something is due.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        let next = self.jobs.iter().map(|round| round.next).min();
        next.unwrap_or(Duration::MAX).saturating_sub(now)
    }

    /// What is due, in the order of the jobs. Turns that were missed are not made up for.
    pub(super) fn due(&mut self, now: Duration) -> Vec<J> {
        let mut due = Vec::new();
        for round in &mut self.jobs {
            if round.next <= now {
                round.next = now.saturating_add(round.every);
                due.push(round.job);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_job_comes_round_in_its_own_time() {
        let mut timetable = Timetable::new(at(1000), vec![('a', at(10)), ('b', at(25))]);
        assert_eq!(timetable.wait(at(1000)), at(10));
        assert_eq!(timetable.due(at(1009)), []);
        let mut seen = Vec::new();
        for second in 1000..1100 {
            seen.extend(
                timetable
                    .due(at(second))
                    .into_iter()
                    .map(|job| (job, second)),
            );
        }
        let of = |job: char| {
            let turns = seen.iter().filter(|(j, _)| *j == job);
            turns.map(|(_, second)| *second).collect::<Vec<_>>()
        };
        assert_eq!(
            of('a'),
            [1010, 1020, 1030, 1040, 1050, 1060, 1070, 1080, 1090]
        );
        assert_eq!(of('b'), [1025, 1050, 1075]);
    }

    #[test]
    fn turns_that_were_missed_are_not_made_up_for() {
        let mut timetable = Timetable::new(at(0), vec![('a', at(10))]);
        assert_eq!(timetable.wait(at(500)), at(0));
        assert_eq!(timetable.due(at(500)), ['a']);
        assert_eq!(timetable.due(at(500)), []);
        assert_eq!(timetable.wait(at(503)), at(7));
    }
}
