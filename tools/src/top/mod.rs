//! What `keyway top` shows, apart from where it is shown.
//!
//! ```text
//!  two status documents, hot keys ──▶ frame::Frame (cells) ──▶ frame::text, or draw (a terminal)
//!                      keys pressed ──▶ view::View (what is chosen, the order)
//! ```

pub mod draw;
mod frame;
mod view;

pub use frame::{Frame, Grid};
pub use view::{Act, Order, View};
