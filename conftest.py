"""What `pytest --doctest-modules cylstm` leaves out: a contender of the benchmark imports a library of its own, which
need not be there, and sets its threads."""

collect_ignore_glob = ["cylstm/bench/contenders/*"]
