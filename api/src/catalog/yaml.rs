//! YAML as far as a catalog needs it.
