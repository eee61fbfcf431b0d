"""Reports on run directories: statistics, an HTML page with charts, tables and figures."""
