package tokens

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"github.com/goccy/go-yaml"
	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// Users is a users file: for starts without a login of one's own, and for tests. It is
// immutable and safe for concurrent use.
type Users struct {
	byName map[string]User
	// busy bounds the memory and the processors that password checks take, queue who waits for
	// them: those who wait hold a place among the requests served at once, refreshes too.
	busy, queue *semaphore.Weighted
	// nobody is checked for unknown names, so that they take as long as known ones.
	nobody string
}

// User is one entry of a users file.
type User struct {
	Username string `yaml:"username"`
	// PasswordHash is an argon2id hash in PHC string format.
	PasswordHash string         `yaml:"passwordHash"`
	Org          string         `yaml:"org,omitempty"`
	Scope        string         `yaml:"scope,omitempty"`
	Claims       map[string]any `yaml:"claims,omitempty"`
}

// usersFile is the file's shape.
type usersFile struct {
	Users []User `yaml:"users"`
}

// Cost of a password hash: OWASP's second choice for argon2id (19 MiB, 2 passes, 1 lane).
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonLanes   = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
	maxArgonCost = 256 * 1024
	// loginQueue is how many logins a processor may have waiting or under way.
	loginQueue = 8
)

// LoadUsers reads a users file, YAML or JSON. Unknown fields are refused, with their line.
func LoadUsers(path string) (*Users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load users: %w", err)
	}
	var file usersFile
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("load users from %s: %s", path, yaml.FormatError(err, false, false))
	}
	u, err := NewUsers(file.Users)
	if err != nil {
		return nil, fmt.Errorf("load users from %s: %w", path, err)
	}
	return u, nil
}

// NewUsers returns the users, or what is wrong with the first that is not valid.
func NewUsers(list []User) (*Users, error) {
	checks := int64(runtime.GOMAXPROCS(0))
	u := &Users{
		byName: make(map[string]User, len(list)),
		busy:   semaphore.NewWeighted(checks), queue: semaphore.NewWeighted(loginQueue * checks),
	}
	for i, user := range list {
		if err := user.validate(); err != nil {
			return nil, fmt.Errorf("user %d: %w", i+1, err)
		}
		if _, twice := u.byName[user.Username]; twice {
			return nil, fmt.Errorf("user %d: %q stands twice", i+1, user.Username)
		}
		u.byName[user.Username] = user
	}
	var err error
	u.nobody, err = HashPassword(rand.Text())
	return u, err
}

func (u User) validate() error {
	if u.Username == "" {
		return errors.New("no username")
	}
	if _, err := parseHash(u.PasswordHash); err != nil {
		return fmt.Errorf("passwordHash of %q: %w", u.Username, err)
	}
	if u.Org != "" && !events.ValidToken(u.Org) {
		return fmt.Errorf("org %q of %q: want a-z 0-9 - _", u.Org, u.Username)
	}
	return checkOwn(u.Claims)
}

// checkOwn refuses application claims that have a name of berth's.
func checkOwn(claims map[string]any) error {
	for name := range claims {
		if api.Reserved(name) {
			return fmt.Errorf("claim %q is berth's own", name)
		}
	}
	data, err := json.Marshal(claims)
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	return checkNumbers(data)
}

// maxExact is the first integer whose neighbours a reader of JSON may take for it, 2^53.
const maxExact = 1 << 53

// checkNumbers refuses numbers that would become others on their way through records and
// tokens, RFC 8259 section 6.
func checkNumbers(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claims: %w", err)
		}
		if n, ok := token.(json.Number); ok {
			if v, err := n.Float64(); err != nil || math.Abs(v) >= maxExact {
				return fmt.Errorf("number %s is 2^53 or more and would be rounded; send it as a string", n)
			}
		}
	}
}

// authenticate returns the user of that name and password, false if there is none. It takes
// the same work for unknown names, and fails only with ctx or where too many wait.
func (u *Users) authenticate(ctx context.Context, name, password string) (User, bool, error) {
	user, known := u.byName[name]
	hash := user.PasswordHash
	if !known {
		hash = u.nobody
	}
	if !u.queue.TryAcquire(1) {
		return User{}, false, errors.New("too many password checks wait")
	}
	defer u.queue.Release(1)
	if err := u.busy.Acquire(ctx, 1); err != nil {
		return User{}, false, fmt.Errorf("wait for password check: %w", err)
	}
	defer u.busy.Release(1)
	same, err := checkPassword(hash, password)
	return user, known && same && err == nil, nil
}

// HashPassword returns the argon2id hash of a password in PHC string format.
func HashPassword(password string) (string, error) {
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonKey)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonLanes, b64(salt), b64(key)), nil
}

// phc is a parsed hash.
type phc struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

func parseHash(s string) (phc, error) {
	var h phc
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return h, errors.New("want $argon2id$v=19$m=…,t=…,p=…$salt$hash; make one with: berth user hash")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.lanes); err != nil {
		return h, fmt.Errorf("cost %q: %w", parts[3], err)
	}
	if h.memory == 0 || h.memory > maxArgonCost || h.time == 0 || h.time > 16 || h.lanes == 0 {
		return h, fmt.Errorf("cost %q is out of bounds", parts[3])
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(h.salt) == 0 {
		return h, errors.New("the salt is not base64")
	}
	if h.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(h.key) < 16 || len(h.key) > 64 {
		return h, errors.New("the hash is not base64 of 16 to 64 bytes")
	}
	return h, nil
}

func checkPassword(hash, password string) (bool, error) {
	h, err := parseHash(hash)
	if err != nil {
		return false, err
	}
	key := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1, nil
}
