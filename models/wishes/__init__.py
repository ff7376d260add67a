"""A user's wish: free text to wanted and unwanted topics of a catalog, without a model.

    stems        text to words and their stems
    cues         English: words that turn the sense of others, words of no meaning, moods
    names        names that a text may use: categories, brands, words of titles
    wish         the result: a wish, of names alone
    grammar      one turn of a dialogue to its parts
    dialogue     the turns of a dialogue to one wish
    effect       a wish to raised items and ruled out items of a catalog
    sentence     a wish to the sentence that answers it

Knows catalogs. Knows nothing of users, stores or HTTP.
"""
