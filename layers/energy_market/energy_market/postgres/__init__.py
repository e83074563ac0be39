"""SQL. A module is named for what it reads or writes. Every function takes an open connection; none opens one."""
