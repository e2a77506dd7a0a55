//! Every controller, one file each, one line each in `ALL`.
