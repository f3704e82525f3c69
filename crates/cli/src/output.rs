//! Output that nobody reads any more (`kubectl mariadb ... | head`) is no failure.

/// Ends the process in silence when its standard output is closed, as programs do that leave SIGPIPE alone. (Rust ignores
/// that signal, and giving it back to the kernel would be `unsafe`; so `println!` panics, and this is where it is caught.)
pub(crate) fn end_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            // 128 + SIGPIPE, as shells tell such an end.
            std::process::exit(141);
        }
        usual(panic);
    }));
}
