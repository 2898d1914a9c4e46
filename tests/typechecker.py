"""beartype with the numeric tower of PEP 484: an int is fine where a float is wanted."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
