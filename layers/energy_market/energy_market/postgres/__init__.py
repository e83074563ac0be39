"""SQL, grouped by subject. Every function takes an open connection; none opens one."""
