//! The folder of models, with hostile names, links and files.
