// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which names a question is about.

/// Whether a name fits a pattern: a part of it, or with stars the whole.
#[must_use]
pub fn fits_name(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name.contains(pattern) };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.split_once(part) {
            Some((_, behind)) => left = behind,
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns() {
        for (pattern, name, fits) in [
            ("example", "login.example.com", true),
            ("login.example.com", "login.example.com", true),
            ("other", "login.example.com", false),
            ("*.example.com", "login.example.com", true),
            ("*.example.com", "example.com", false),
            ("example.*", "login.example.com", false),
            ("login.*", "login.example.com", true),
            ("l*.ex*.com", "login.example.com", true),
            ("l*.ex*.net", "login.example.com", false),
            ("*", "login.example.com", true),
            ("login.example.com*.com", "login.example.com", false),
        ] {
            assert_eq!(fits_name(pattern, name), fits, "{pattern} {name}");
        }
    }
}
