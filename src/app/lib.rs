//! The composition root: configuration, PKI, server, agent, operator's commands.
