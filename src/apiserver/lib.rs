//! The API server: the request pipeline in its visible order, the watch cache, and the documents.
