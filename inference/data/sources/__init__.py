"""Where texts come from: files, tables and the corpus that ships."""
