//! Owns: words of the commands that a hint gives. Must not: run one.

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-%+:".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_is_one_word_and_runs_nothing() {
        for (word, in_shell) in
            [("a/b-1.qcow2", "a/b-1.qcow2"), ("", "''"), ("a b", "'a b'"), ("a'; rm x", r"'a'\''; rm x'")]
        {
            assert_eq!(quoted(word), in_shell);
        }
    }
}
