"""The page `/explore`: a person looks at users, thoughts, prefixes and lists, and tries events.

Its routes below `/explore/api` belong to the page alone and are no part of the public API. `/docs`,
the page of the public routes, lies here too.
"""
