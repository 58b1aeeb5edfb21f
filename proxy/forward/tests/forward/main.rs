//! The whole way from a program's socket to a target: a listener, TLS, a server's front, and an agent's answers.

#[cfg(test)]
mod carried;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod named;
mod node;
#[cfg(test)]
mod world;
