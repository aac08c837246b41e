"""Settings that are the same everywhere."""

import os

DEBUG = False

ROOT_URLCONF = "todo.urls"
WSGI_APPLICATION = "todo.wsgi.application"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "todo",
]

MIDDLEWARE = [
    "todo.health.HealthMiddleware",
    # Ahead of everything that can answer a request: a redirected pre-flight fails.
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# Where it is and how to log in, the other settings add.
DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    # A database that cannot be reached is to be an error soon, above all in /healthz.
    "OPTIONS": {"connect_timeout": 5},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TIME_ZONE = "UTC"
USE_I18N = False

STATIC_URL = "/static/"
STATIC_ROOT = os.environ.get("APP_STATIC_ROOT") or "/webroot"

# The API is for everybody, the admin is not.
CORS_ALLOW_ALL_ORIGINS = True
CORS_URLS_REGEX = r"^/todos(/|$)"
CORS_EXPOSE_HEADERS = ["Location"]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["todo.parsers.JSONParser"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
}

# All to the standard streams, where whoever runs the container looks for it: Django's own handlers
# (the console in debug mode, mail to the administrators) go.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"django": {"level": "INFO"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

# What the image was built from; baked in there.
REVISION = os.environ.get("REVISION") or "unknown"
