//! What a machine does between power and the init process: choose a slot as GRUB does, and start it.
