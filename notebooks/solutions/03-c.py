decision = {
    401: "never",
    429: "again",
    504101: "look",
    "answerLost": "look",
}
