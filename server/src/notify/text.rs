//! Untrusted text (log lines, names, answers) made fit for showing: without control characters, bounded, and with
//! every character that a chat's markdown could act on replaced by its full-width twin, which reads the same.

/// Breaks what a chat would turn into a link, unseen.
const BREAK: char = '\u{200b}';

/// One line without control characters or direction marks, at most `chars_max` long.
pub(super) fn clean(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    let mut chars = 0;
    let mut gap = false;
    for char in text.chars() {
        if char.is_whitespace() {
            gap = !line.is_empty();
            continue;
        }
        if is_unseen(char) {
            continue;
        }
        if chars + usize::from(gap) >= chars_max {
            line.push('…');
            return line;
        }
        if gap {
            line.push(' ');
            chars += 1;
            gap = false;
        }
        line.push(char);
        chars += 1;
    }
    line
}

fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text that no chat's markdown acts on: no link, no mention, no tag, no heading, no emphasis.
pub(super) fn defuse(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut word_before = false;
    for (at, char) in text.char_indices() {
        safe.push(match char {
            '@' => '＠',
            '<' => '＜',
            '>' => '＞',
            '[' => '［',
            ']' => '］',
            '*' => '＊',
            '`' => '＇',
            '#' => '＃',
            '~' => '～',
            '|' => '｜',
            '&' => '＆',
            '\\' => '＼',
            // An underscore inside a word is a name, elsewhere it may be emphasis.
            '_' if !word_before
                || text[at + 1..].chars().next().is_none_or(|next| !next.is_alphanumeric() && next != '_') =>
            {
                '＿'
            }
            other => other,
        });
        word_before = char.is_alphanumeric() || char == '_';
        let rest = &text[at + char.len_utf8()..];
        let link = (char == ':' && rest.starts_with("//"))
            || (matches!(char, 'w' | 'W') && rest.starts_with('.') && text[..at].to_ascii_lowercase().ends_with("ww"));
        if link {
            safe.push(BREAK);
        }
    }
    safe
}

/// The longest head of `text` within `bytes_max` that ends between two characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
pub(super) const HOSTILE_LINES: &[&str] = &[
    "[登录](http://evil.example/x)",
    "![pic](https://evil.example/a.png)",
    "<@all> <at id=all></at> <at user_id=\"all\">所有人</at> @all @所有人 @13800000000",
    "<font color=\"warning\">x</font><a href='http://evil.example'>y</a><script>alert(1)</script>",
    "&lt;at id=all&gt;&lt;/at&gt; &#60;at id=all&#62;",
    "**bold** __bold__ _it_ ~~gone~~ `code` # head\n# head\n> quote\n\n---\n| a | b |",
    "\\[x\\](http://evil.example) \\@all",
    "\u{202e}gnp.exe\u{200b}@\u{200b}all \u{1b}[31mred\u{7}",
    "http://evil.example www.evil.example WWW.evil.example mailto:a@evil.example",
    "\"}],\"at\":{\"isAtAll\":true},\"x\":[{\"",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_line_ends_do_not_survive() {
        assert_eq!(clean("a\r\n\tb\u{1b}[31m\u{202e}c \u{0}", 99), "a b[31mc");
        assert_eq!(clean("数据库连接超时", 3), "数据库…");
        assert_eq!(clean("abc", 3), "abc");
        assert_eq!(clean("  ", 3), "");
    }

    #[test]
    fn an_ordinary_line_stays_readable() {
        let line = "2026-11-22 14:03:07 ERROR c.a.Pool_7 - 数据库连接超时 (30000 ms), active=50/50, user=app_rw";
        assert_eq!(defuse(line), line);
    }

    #[test]
    fn hostile_lines_lose_their_teeth() {
        for line in HOSTILE_LINES {
            let safe = defuse(&clean(line, 500));
            assert!(
                !safe.contains(['@', '<', '>', '[', ']', '*', '`', '#', '~', '|', '&', '\\', '\n', '\u{202e}']),
                "{safe}"
            );
            assert!(!safe.contains("://") && !safe.to_lowercase().contains("www."), "{safe}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_markdown_acts_on_survives(text in "\\PC*|[@<>\\[\\]()*_`#~|&!:/w.a\n]{0,40}") {
            let safe = defuse(&clean(&text, 200));
            prop_assert!(!safe.contains(['@', '<', '>', '[', ']', '*', '`', '#', '~', '|', '&', '\\', '\n']));
            prop_assert!(!safe.contains("://") && !safe.to_lowercase().contains("www."));
        }

        #[test]
        fn a_cut_never_splits_a_character(text in "\\PC*", max in 0usize..64) {
            prop_assert!(cut(&text, max).len() <= max);
        }
    }
}
