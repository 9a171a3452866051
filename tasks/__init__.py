"""seqio registrations: importing a module of this package registers its tasks and mixtures."""
