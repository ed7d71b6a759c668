"""Sources of texts: files, tables and the corpus that ships."""
