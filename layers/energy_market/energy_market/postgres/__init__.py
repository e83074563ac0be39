"""SQL, a module a table. Every function takes an open connection; none opens one."""
