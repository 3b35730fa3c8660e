//! What is typed at the prompt.

/// One line of it. Members are numbered from 1, as they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Kill(usize),
    Start(usize),
    Pause(usize),
    Resume(usize),
    Cut(usize, usize),
    Heal,
    Status,
    Leader,
    Put(String, String),
    Get(String),
    Help,
    Quit,
    Nothing,
}

/// What `help` prints.
pub(super) const HELP: &str = "\
kill N      end member N's process on the spot, as kill -9 does
start N     start it again where it was
pause N     stop its process without ending it, as a machine that hangs
resume N    let it go on
cut A B     let nothing through between members A and B, in neither direction
heal        let everything through again
status      what each member says of itself
leader      who leads
put K V     write a key, through a member that answers
get K       read it
quit        end all (Ctrl-D and Ctrl-C as well)";

impl Command {
    /// Understands a line, for a cluster of so many members.
    ///
    /// # Errors
    /// A sentence, when it makes no sense.
    pub(super) fn parse(line: &str, members: usize) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let member = |word: &str| match word.parse::<usize>() {
            Ok(number) if (1..=members).contains(&number) => Ok(number - 1),
            _ => Err(format!("there is no member {word:?}: they are 1 to {members}")),
        };
        Ok(match words[..] {
            [] => Self::Nothing,
            ["kill", number] => Self::Kill(member(number)?),
            ["start", number] => Self::Start(member(number)?),
            ["pause", number] => Self::Pause(member(number)?),
            ["resume", number] => Self::Resume(member(number)?),
            ["cut", one, other] => {
                let (one, other) = (member(one)?, member(other)?);
                if one == other {
                    return Err("a link is between two members".into());
                }
                Self::Cut(one, other)
            }
            ["heal"] => Self::Heal,
            ["status"] => Self::Status,
            ["leader"] => Self::Leader,
            ["put", key, ..] => match line.split_once(key).map(|(_, value)| value.trim()) {
                Some(value) if !value.is_empty() => Self::Put(key.into(), value.into()),
                _ => return Err("put what? put K V".into()),
            },
            ["get", key] => Self::Get(key.into()),
            ["help"] => Self::Help,
            ["quit" | "exit"] => Self::Quit,
            [word, ..] => {
                let known = HELP.lines().find(|line| line.split_whitespace().next() == Some(word));
                return Err(known.map_or_else(
                    || format!("unknown command {word:?}: `help` lists them"),
                    |usage| format!("it is: {usage}"),
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_refused_with_a_sentence() {
        let parse = |line: &str| Command::parse(line, 3);
        for (line, expect) in [
            ("", Command::Nothing),
            ("  kill 2 ", Command::Kill(1)),
            ("start 3", Command::Start(2)),
            ("pause 1", Command::Pause(0)),
            ("resume 1", Command::Resume(0)),
            ("cut 1 3", Command::Cut(0, 2)),
            ("put k v", Command::Put("k".into(), "v".into())),
            ("put k  a b ", Command::Put("k".into(), "a b".into())),
            ("get k", Command::Get("k".into())),
            ("exit", Command::Quit),
        ] {
            assert_eq!(parse(line), Ok(expect), "{line}");
        }
        for (line, says) in [
            ("kill 4", "there is no member \"4\": they are 1 to 3"),
            ("kill 0", "no member"),
            ("kill", "it is: kill N"),
            ("cut 1", "it is: cut A B"),
            ("cut 2 2", "two members"),
            ("put k", "put K V"),
            ("kll 1", "unknown command \"kll\""),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for word in ["kill", "start", "pause", "resume", "cut", "heal", "status", "leader", "put", "get", "quit"] {
            assert!(HELP.lines().any(|line| line.starts_with(word)), "{word}");
        }
    }
}
