//! Characters that no reader sees, and such as end a line.

/// Characters without width: no reader sees them, so no reader meant them. Host names ignore or refuse all of them.
pub(super) fn is_invisible(char: char) -> bool {
    is_joiner(char)
        || matches!(
            char,
            '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
        )
}

/// Characters that end a line, or that no line of text has.
pub(in crate::url) fn breaks_a_line(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

pub(super) fn is_joiner(char: char) -> bool {
    matches!(char, '\u{200c}' | '\u{200d}')
}

/// Characters that turn the direction of text. Around a URL they come with copying from such text; inside a host they
/// make it look like another, so there they stay, and the parser refuses them.
pub(super) fn is_direction_mark(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
