//! Programs that run beside others and let them go first.

use std::process::{Command, Output};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::run::shown;

/// No priority is lower.
const NICENESS: i32 = 19;

/// Commands that run one after the other, below everything else on the machine: they take what the others leave of it.
pub(crate) struct Beside(JoinHandle<Vec<Ended>>);

/// How one of them ended, and what it said meanwhile.
pub(crate) struct Ended {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) said: String,
    pub(crate) result: Result<()>,
}

impl Beside {
    /// Starts the first; each has a name.
    pub(crate) fn start(commands: Vec<(&'static str, Command)>) -> Self {
        Self(std::thread::spawn(move || {
            // This thread's, and that of all it starts. Without it they are in the way, and no more than that.
            let _ = rustix::process::nice(NICENESS);
            commands.into_iter().map(|(name, command)| ended(name, command)).collect()
        }))
    }

    /// Waits until the last has ended: nothing is left behind, whatever became of the programs beside.
    pub(crate) fn wait(self) -> Vec<Ended> {
        self.0.join().expect("the thread panics nowhere")
    }
}

fn ended(name: &'static str, mut command: Command) -> Ended {
    let start = Instant::now();
    let line = shown(&command);
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()));
    let (said, result) = match output {
        Ok(Output { status, stdout, stderr }) => {
            let said = format!("$ {line}\n{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            let result = || {
                ensure!(status.success(), "`{line}` failed: {status}");
                Ok(())
            };
            (said, result())
        }
        Err(error) => (format!("$ {line}\n"), Err(error)),
    };
    Ended { name, took: start.elapsed(), said, result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn each_runs_and_what_fails_is_an_error_with_what_it_said() {
        let commands =
            vec![("good", sh("echo out")), ("bad", sh("echo oh >&2; exit 3")), ("none", Command::new("/no"))];
        let [good, bad, none] = &Beside::start(commands).wait()[..] else { panic!("not three") };
        assert!(good.result.is_ok() && good.said.contains("out\n"), "{}", good.said);
        let error = bad.result.as_ref().expect_err("exit 3 is a failure").to_string();
        assert!(bad.name == "bad" && bad.said.contains("oh\n") && error.contains("exit status: 3"), "{error}");
        let error = none.result.as_ref().expect_err("there is no such program").to_string();
        assert_eq!(error, "cannot start /no");
    }

    #[test]
    fn they_go_last_and_the_rest_does_not() {
        let niceness = || rustix::process::getpriority_process(None).expect("a process has a priority");
        let before = niceness();
        // The nineteenth field of the line, counted after the name, which may hold spaces.
        let commands = vec![("nice", sh("read -r line < /proc/self/stat; set -- ${line##*) }; echo niceness=${17}"))];
        let ended = Beside::start(commands).wait();
        assert!(ended[0].said.contains("niceness=19\n"), "{}", ended[0].said);
        assert_eq!(niceness(), before);
    }
}
